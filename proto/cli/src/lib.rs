//! What every binary shares with its user: flags, config file, log lines, signals, version.
//!
//! A program declares its flags once, as rows of a [`FlagTable`]; the command line, the
//! configuration file, `-help` and `GET /config/<key>` all follow from the row. The syntax is that
//! of Go's `flag` package, because the programs replaced were written in Go and their scripts,
//! unit files and dashboards are still there.
//!
//! Owner: the main thread at start-up; afterwards [`Logger`] and [`ConfigTable`] are shared by all
//! threads and [`Signals`] belongs to one control thread.
//!
//! Not here: what a flag means, which values are legal together, anything about queues.

mod address;
mod errno;
mod exit;
mod file;
mod flag;
mod golang;
mod host;
mod lock;
mod log;
mod settings;
mod signal;
mod table;
mod usage;
mod value;
mod version;

pub use address::{Address, AddressError};
pub use errno::errno_text;
pub use exit::{EarlyExit, fatal, fatal_startup};
pub use flag::{Custom, Flag, Form, Kind};
pub use golang::{
    NumberError, format_duration, parse_bool, parse_duration, parse_float, parse_int,
};
pub use host::{default_node_id, hostname};
pub use lock::{Lock, LockError, lock_data_path};
pub use log::{Level, LevelError, Logger, log_level_flag, plain_line};
pub use settings::{ConfigTable, Origin, Settings};
pub use signal::{Signal, Signals};
pub use table::{CommandLine, FlagTable};
pub use value::Value;
pub use version::{TOOLCHAIN, VERSION, banner, short_banner};
