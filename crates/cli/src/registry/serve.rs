//! `registry serve`.

use super::Context;
use crate::failure::{Code, Failure, Problem, Result};
use ::images::registry::{self, Challenge, Grant, ImmutableTags, Limits, Settings, TlsFiles, Verbs};
use clap::{Args, ValueEnum};
use model::ByteSize;
use serde::Serialize;
use std::{error::Error, net::SocketAddr, path::PathBuf, time::Duration};

/// `registry serve`
#[derive(Args, Debug)]
pub struct ServeArguments {
    /// Address and port
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:5000")]
    listen: SocketAddr,
    /// Certificate chain, PEM; read again when it changes and on SIGHUP
    #[arg(long, value_name = "FILE", requires = "tls_key", help_heading = "Transport")]
    tls_cert: Option<PathBuf>,
    /// Key of the certificate, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = "Transport")]
    tls_key: Option<PathBuf>,
    /// Serve without TLS to more than this machine
    #[arg(long, conflicts_with = "tls_cert", help_heading = "Transport")]
    plain_http: bool,
    /// Address that clients use, where it is not the one they name themselves
    #[arg(long, value_name = "URL", help_heading = "Transport")]
    url: Option<String>,
    /// Let anybody read, or only what the pattern names
    #[arg(long, value_name = "PATTERN", num_args = 0..=1, require_equals = true, default_missing_value = "**", help_heading = "Access")]
    anonymous_read: Vec<registry::Pattern>,
    /// Let anybody do anything
    #[arg(long, help_heading = "Access")]
    open: bool,
    /// How clients are asked who they are
    #[arg(long, value_enum, default_value = "bearer", help_heading = "Access")]
    challenge: Asked,
    /// Tags that stay what they are once set, such as `**:v*` (repeatable)
    #[arg(long, value_name = "REPOSITORIES:TAGS", help_heading = "Access")]
    immutable: Vec<ImmutableTags>,
    /// Take manifests whose content is not all here, such as an index of which one platform was copied
    #[arg(long, help_heading = "Access")]
    sparse: bool,
    /// Largest blob
    #[arg(long, value_name = "SIZE", default_value = "64g", help_heading = "Limits")]
    max_blob: ByteSize,
    /// Connections at a time
    #[arg(long, value_name = "N", default_value_t = 1024, help_heading = "Limits")]
    max_connections: usize,
    /// Uploads that send at a time
    #[arg(long, value_name = "N", default_value_t = 64, help_heading = "Limits")]
    max_uploads: usize,
    /// Hours between collections of content that nothing keeps; a disk that fills up is collected at once
    #[arg(long, value_name = "HOURS", default_value_t = 24, help_heading = "Limits")]
    collect_every: u32,
    /// Seconds that a client may send or take nothing
    #[arg(long, value_name = "SECONDS", default_value_t = 60, help_heading = "Limits")]
    stall: u64,
    /// Seconds that requests may take to finish after SIGTERM
    #[arg(long, value_name = "SECONDS", default_value_t = 30, help_heading = "Limits")]
    drain: u64,
    /// Address and port of /metrics (OpenMetrics) and /health, without authentication
    #[arg(long, value_name = "ADDRESS", help_heading = "Records")]
    metrics: Option<SocketAddr>,
    /// Folder of the audit log [default: registry/ in the data folder]
    #[arg(long, value_name = "DIR", help_heading = "Records")]
    audit: Option<PathBuf>,
    /// Keep no audit log
    #[arg(long, conflicts_with = "audit", help_heading = "Records")]
    no_audit: bool,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
enum Asked {
    Bearer,
    Basic,
}

#[derive(Serialize)]
struct Ready {
    registry: String,
    metrics: Option<String>,
}

/// Serves until a signal.
pub fn serve(context: &mut Context<'_, '_, '_>, arguments: &ServeArguments) -> Result<Code> {
    let settings = settings(arguments, context.data.join("registry"))?;
    let scheme = if settings.tls.is_some() { "https" } else { "http" };
    let mut said = Ok(());
    let printer = &mut *context.printer;
    let exit = registry::run(&context.store, settings, |addresses| {
        let ready = Ready {
            registry: format!("{scheme}://{}", addresses.registry),
            metrics: addresses.metrics.map(|address| format!("http://{address}/metrics")),
        };
        said = match printer.json {
            true => printer.document_line(&ready),
            false => printer.line(&format!("registry ready at {}", ready.registry)),
        };
        said = std::mem::replace(&mut said, Ok(())).and_then(|()| printer.flush());
    });
    let exit = exit.map_err(|error| Failure::from_error(error.to_string(), error.source().unwrap_or(&error)))?;
    said?;
    Ok(Code(exit.code()))
}

fn settings(arguments: &ServeArguments, folder: PathBuf) -> Result<Settings> {
    let mut problems = Vec::new();
    let mut wrong = |argument: &str, problem: &str| {
        problems.push(Problem { argument: argument.to_owned(), problem: problem.to_owned() });
    };
    if arguments.tls_cert.is_none() && !arguments.listen.ip().is_loopback() && !arguments.plain_http {
        wrong(
            "--listen",
            "passwords and content would travel without TLS: give --tls-cert and --tls-key, or --plain-http",
        );
    }
    if arguments.max_connections == 0 {
        wrong("--max-connections", "expected 1 or more");
    }
    if arguments.max_uploads == 0 {
        wrong("--max-uploads", "expected 1 or more");
    }
    if arguments.collect_every == 0 {
        wrong("--collect-every", "expected 1 or more");
    }
    if arguments.stall == 0 {
        wrong("--stall", "expected 1 or more");
    }
    if arguments.url.as_ref().is_some_and(|url| !url.starts_with("https://") && !url.starts_with("http://")) {
        wrong("--url", "expected http://… or https://…");
    }
    if !problems.is_empty() {
        return Err(Failure::arguments(problems, "jdos registry serve"));
    }
    let tls = arguments.tls_cert.clone().zip(arguments.tls_key.clone());
    let stall = Duration::from_secs(arguments.stall);
    let grant = |pattern: &registry::Pattern| Grant { pattern: pattern.clone(), verbs: Verbs::PULL };
    Ok(Settings {
        tls: tls.map(|(certificate, key)| TlsFiles { certificate, key }),
        metrics: arguments.metrics,
        anonymous: arguments.anonymous_read.iter().map(grant).collect(),
        open: arguments.open,
        challenge: match arguments.challenge {
            Asked::Bearer => Challenge::Bearer,
            Asked::Basic => Challenge::Basic,
        },
        url: arguments.url.clone(),
        immutable: arguments.immutable.clone(),
        sparse: arguments.sparse,
        collect_every: Duration::from_secs(u64::from(arguments.collect_every) * 3600),
        limits: Limits {
            connections: arguments.max_connections,
            uploads: arguments.max_uploads,
            blob: arguments.max_blob.0,
            head: stall,
            stall,
            drain: Duration::from_secs(arguments.drain),
            ..Limits::default()
        },
        audit: (!arguments.no_audit).then(|| arguments.audit.clone().unwrap_or(folder)),
        ..Settings::new(arguments.listen)
    })
}
