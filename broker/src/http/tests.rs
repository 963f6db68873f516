//! The door as a client sees it, over an in-memory stream and against a broker that records what
//! it is asked. Answers were taken from the reference daemon.

#[cfg(test)]
mod api;
#[cfg(test)]
mod connection;
pub(crate) mod fixture;
#[cfg(test)]
mod publishing;
#[cfg(test)]
mod statistics;
pub(crate) mod wire;
