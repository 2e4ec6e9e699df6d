//! Whole requests: what they become, and everything that is wrong with them.

mod bundles;
mod options;

use super::{
    facts::tests::{Fake, facts, facts_with},
    *,
};
use crate::options::{CreateOptions, RootSource};
use jiff::Timestamp;
use model::ContainerId;
use oci_spec::runtime::{LinuxNamespaceType, Mount, Process};
use serde_json::Value;

fn context() -> Context {
    Context {
        id: ContainerId::from_random([0xab; 16]),
        random: 7,
        now: Timestamp::UNIX_EPOCH,
        volumes: "/data/volumes".into(),
        rootfs: "/data/containers/x/rootfs".into(),
        cgroup: format!("jdos/{}", "ab".repeat(16)),
        seccomp: None,
    }
}

fn request() -> CreateOptions {
    CreateOptions::new(RootSource::Directory("/srv/root".into()), vec!["/bin/app".into(), "-v".into()])
}

fn built(change: impl FnOnce(&mut CreateOptions)) -> Built {
    let mut options = request();
    change(&mut options);
    build(&options, &facts(), &context()).unwrap_or_else(|errors| panic!("{errors}"))
}

fn errors(change: impl FnOnce(&mut CreateOptions)) -> String {
    let mut options = request();
    change(&mut options);
    build(&options, &facts(), &context()).map(|built| built.record.spec).unwrap_err().to_string()
}

fn process(built: &Built) -> &Process {
    built.record.spec.process().as_ref().unwrap()
}
fn mount_at<'a>(built: &'a Built, path: &str) -> Option<&'a Mount> {
    built.record.spec.mounts().iter().flatten().find(|mount| mount.destination().to_str() == Some(path))
}
fn words(mount: &Mount) -> String {
    mount.options().clone().unwrap_or_default().join(" ")
}
fn has(built: &Built, kind: LinuxNamespaceType) -> bool {
    let linux = built.record.spec.linux().as_ref().unwrap();
    linux.namespaces().iter().flatten().any(|namespace| namespace.typ() == kind)
}

/// A JSON value with the lists that are sets in order.
fn sorted(mut value: Value) -> Value {
    if let Some(sets) = value.pointer_mut("/process/capabilities").and_then(Value::as_object_mut) {
        for set in sets.values_mut() {
            let names = set.as_array_mut().unwrap();
            names.sort_by_key(|name| name.to_string());
        }
    }
    value
}
