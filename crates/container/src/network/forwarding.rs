//! What container networks need changed on the host, with a record of how it was.
//!
//! Three kernel parameters, the first two of the host as a whole, so that a container's packets are passed on:
//! - `net/ipv4/ip_forward` = 1
//! - `net/ipv6/conf/all/forwarding` = 1
//! - `net/ipv6/conf/IF/accept_ra` = 2 for each interface that has 1: a host that forwards ignores router advertisements
//!   under 1, and would lose its own IPv6 default route as soon as the second parameter is set.
//!
//! The old values stand in `host-changes.json` in the data folder before anything is changed, and
//! [`super::Networks::teardown`] puts them back. A reboot undoes the changes by itself; a record of an earlier boot is void.

use super::{
    error::NetworkError,
    store::{self, Durability},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

const SYSCTL: &str = "/proc/sys";
const FORWARD4: &str = "net/ipv4/ip_forward";
const FORWARD6: &str = "net/ipv6/conf/all/forwarding";
const CONF6: &str = "net/ipv6/conf";

/// All changes of one boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Changes {
    /// `/proc/sys/kernel/random/boot_id`.
    boot: String,
    changes: Vec<Change>,
}

/// One kernel parameter that was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Change {
    /// Its path below `/proc/sys`.
    parameter: String,
    old: String,
    new: String,
    changed_at: Timestamp,
}

/// Whether containers can have IPv6: the kernel has it, and the administrator has not turned it off for interfaces to come.
pub(super) fn has_ipv6() -> bool {
    get("net/ipv6/conf/default/disable_ipv6").is_ok_and(|value| value == "0")
}

/// Whether packets between ports of a bridge pass the firewall (`br_netfilter`), as some other software wants it: a port that
/// a container has published is then led back to it on the bridge, and not by the host's routing.
pub(super) fn bridge_calls_firewall() -> bool {
    ["net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"]
        .iter()
        .any(|name| get(name).is_ok_and(|value| value != "0"))
}

/// Makes the host pass packets on. Does nothing, and reads little, when it does so already. Needs the networks' lock.
pub(super) fn enable(record: &Path) -> Result<(), NetworkError> {
    let mut wanted = Vec::new();
    if get(FORWARD4).map_err(parameter(FORWARD4, "1"))? != "1" {
        wanted.push((FORWARD4.to_owned(), "1"));
    }
    if has_ipv6() && get(FORWARD6).map_err(parameter(FORWARD6, "1"))? == "0" {
        for interface in store::names(&Path::new(SYSCTL).join(CONF6))? {
            let name = format!("{CONF6}/{interface}/accept_ra");
            let special = ["all", "default", "lo"].contains(&interface.as_str());
            // An interface that is gone since it was listed needs nothing.
            if !special && get(&name).is_ok_and(|value| value == "1") {
                wanted.push((name, "2"));
            }
        }
        wanted.push((FORWARD6.to_owned(), "1"));
    }
    if wanted.is_empty() {
        return Ok(());
    }

    let boot = boot()?;
    let mut changes = store::read::<Changes>(record)?.filter(|changes| changes.boot == boot).unwrap_or_default();
    changes.boot = boot;
    for (name, new) in &wanted {
        if !changes.changes.iter().any(|change| change.parameter == *name) {
            let old = get(name).map_err(parameter(name, new))?;
            let (parameter, new) = (name.clone(), (*new).to_owned());
            changes.changes.push(Change { parameter, old, new, changed_at: Timestamp::now() });
        }
    }
    store::write(record, &changes, Durability::Power)?;
    for (name, new) in wanted {
        match set(&name, new) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result.map_err(parameter(&name, new))?,
        }
        tracing::info!(parameter = name, value = new, "host changed for container networks");
    }
    Ok(())
}

/// Puts back what [`enable`] changed, unless somebody has changed it again. Says what was put back.
pub(super) fn restore(record: &Path) -> Result<Vec<String>, NetworkError> {
    let Some(changes) = store::read::<Changes>(record)? else { return Ok(Vec::new()) };
    let mut restored = Vec::new();
    if changes.boot == boot()? {
        // Backwards: forwarding goes off before the exceptions that it made necessary.
        for change in changes.changes.iter().rev() {
            if get(&change.parameter).is_ok_and(|value| value == change.new) {
                set(&change.parameter, &change.old).map_err(|source| NetworkError::Parameter {
                    name: change.parameter.clone(),
                    value: "its old value",
                    source,
                })?;
                restored.push(format!("kernel parameter {} back to {}", change.parameter, change.old));
            }
        }
    }
    store::remove(record)?;
    Ok(restored)
}

/// Sets a parameter of an interface of ours, which needs no record: it goes with the interface.
pub(super) fn own(family: &str, interface: &str, name: &str, value: &'static str) -> Result<(), NetworkError> {
    let path = format!("net/{family}/conf/{interface}/{name}");
    set(&path, value).map_err(parameter(&path, value))
}

/// Lets packets for the host's loopback addresses pass between the host and a bridge, or no longer; nothing to do where the
/// bridge is not there, or it is so already.
pub(super) fn route_loopback(bridge: &str, on: bool) -> Result<(), NetworkError> {
    let name = format!("net/ipv4/conf/{bridge}/route_localnet");
    let value = if on { "1" } else { "0" };
    let set = || if get(&name)? == value { Ok(()) } else { set(&name, value) };
    match set() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(parameter(&name, value)),
    }
}

fn get(name: &str) -> io::Result<String> {
    Ok(fs::read_to_string(path(name))?.trim_ascii().to_owned())
}
fn set(name: &str, value: &str) -> io::Result<()> {
    fs::write(path(name), value)
}
fn path(name: &str) -> PathBuf {
    Path::new(SYSCTL).join(name)
}
fn parameter(name: &str, value: &'static str) -> impl FnOnce(io::Error) -> NetworkError {
    let name = name.to_owned();
    move |source| NetworkError::Parameter { name, value, source }
}
fn boot() -> Result<String, NetworkError> {
    const BOOT: &str = "kernel/random/boot_id";
    get(BOOT).map_err(NetworkError::file("read", path(BOOT)))
}
