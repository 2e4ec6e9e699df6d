//! The fate of every task of a process: how it is started, what happens when it fails, how it ends; and the process's
//! logs and metrics.
//!
//! It does not know what the tasks are for. Three types carry it:
//!
//! - [`TaskSpec`]: the name of a task and its declared fate on error, on panic and on shutdown ([`JobSpec`] for work that
//!   cannot be begun again).
//! - [`Spawner`]: starts tasks, from anywhere, and lists them.
//! - [`Supervisor`]: owns them; [`Supervisor::run`] returns when the process shall end, with the reason ([`Exit`]).
//!
//! **Start**: [`Metrics`], then [`Logs::install`], [`install_panic_hook`], a runtime ([`block_on`]), and in it
//! [`Supervisor::builder`] and the tasks. **Stop**: a signal, a task whose fate it is, or [`Spawner::stop`]; tasks are told
//! stage by stage ([`Stage`]), within one deadline, and those which do not end are named with what holds them up.
//! **Fail**: an error or a panic of a task is logged with its name, counted, and its declared fate is applied; nothing
//! that fails is silent.
//!
//! ```
//! use std::{process::ExitCode, time::Duration};
//! use supervisor::{Backoff, Fate, Metrics, OnShutdown, Stage, Supervisor, TaskSpec};
//!
//! fn main() -> ExitCode {
//!     let metrics = Metrics::new();
//!     let serve = async {
//!         let supervisor = Supervisor::builder().metrics(&metrics).drain_within(Duration::from_secs(5)).start()?;
//!         let spec = TaskSpec::new("clock")
//!             .on_error(Fate::Restart(Backoff::default()))
//!             .on_panic(Fate::Shutdown)
//!             .on_shutdown(OnShutdown::Drain)
//!             .stage(Stage::Intake);
//!         let spawner = supervisor.spawner().clone();
//!         supervisor.spawn(spec, move |shutdown| {
//!             let spawner = spawner.clone();
//!             async move {
//!                 spawner.stop("the example is over");
//!                 shutdown.requested().await;
//!                 Ok::<(), std::io::Error>(())
//!             }
//!         });
//!         Ok::<_, std::io::Error>(supervisor.run().await)
//!     };
//!     match supervisor::block_on(serve) {
//!         Ok(Ok(exit)) => exit.code().into(),
//!         Ok(Err(error)) | Err(error) => {
//!             eprintln!("error: {error}");
//!             ExitCode::FAILURE
//!         }
//!     }
//! }
//! ```
#![forbid(unsafe_code)]

mod backoff;
mod exit;
mod guarded;
mod logs;
mod metrics;
mod panics;
mod report;
mod run;
mod secret;
mod shutdown;
mod signals;
mod spawner;
mod table;
mod task;
#[cfg(test)]
mod testing;

pub use backoff::Backoff;
pub use exit::{Cause, Exit, Interruption};
pub use logs::{Format, LogConfig, LogError, Logs, Writing};
pub use metrics::{Metrics, PrefixTaken};
pub use panics::install_panic_hook;
/// The library of the metrics themselves, so that all crates use the registry's version.
pub use prometheus_client;
pub use report::{Held, Phase, TaskReport};
pub use run::{Builder, Supervisor, block_on};
pub use secret::Secret;
pub use shutdown::{Hold, Shutdown};
pub use signals::Signal;
pub use spawner::{BlockingError, Spawner};
pub use task::{Fate, JobFate, JobSpec, OnShutdown, Stage, TaskSpec};
