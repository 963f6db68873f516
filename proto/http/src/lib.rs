//! What the HTTP doors of all daemons have in common: queries, routing, the shapes of answers.
//!
//! The reference's daemons share one router and one way to answer, and clients know both: which
//! paths are redirected, what is said of another method, which headers an error carries. It is
//! written down here once. Nothing is owned and nothing waits: text in, values out.
//!
//! Not here: sockets, connections, bodies of requests, what an endpoint does.
#![forbid(unsafe_code)]

pub mod query;
pub mod response;
mod routes;

pub use query::Query;
pub use response::{ApiError, Response};
pub use routes::{Methods, Path, Routed, route};
