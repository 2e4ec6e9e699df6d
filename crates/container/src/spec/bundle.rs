//! An OCI bundle: a folder with `config.json` and a root.

use super::{
    build::absolute,
    check,
    facts::{Facts, Kind},
    fault::{Fault, Faults},
    filesystem, json,
    mounts::MountOptions,
};
use oci_spec::runtime::{Linux, Spec};
use serde::de::IgnoredAny;
use std::{io::ErrorKind, path::Path};

/// Largest `config.json` read, bytes.
const LARGEST: u64 = 4 << 20;

/// Reads and checks a bundle. `command` stands in for its arguments when there is one. `None` when it can not be read.
pub(super) fn load(
    folder: &Path,
    command: &[String],
    facts: &Facts,
    faults: &mut Faults,
    warnings: &mut Vec<String>,
) -> Option<Spec> {
    let folder = faults.take(absolute("--bundle", folder, Kind::Directory, facts))?;
    let file = folder.join("config.json");
    let fail = |why: String| Fault::new("--bundle", why).of(file.display());
    let text = facts.files.read(&file, LARGEST).map_err(|error| match error.kind() {
        ErrorKind::NotFound => fail("there is no config.json".into()).hint("runc spec writes one to begin with"),
        _ => fail(format!("it can not be read: {error}")),
    });
    let text = String::from_utf8(faults.take(text)?).map_err(|error| fail(format!("it is not UTF-8: {error}")));
    let text = faults.take(text)?;
    let mut spec = faults.take(parse(&text, warnings))?;
    complete(&mut spec, &folder);
    if let Some(process) = spec.process_mut().as_mut().filter(|_| !command.is_empty()) {
        process.set_args(Some(command.to_vec()));
    }
    match check::check(&spec, facts) {
        Ok(more) => warnings.extend(more),
        Err(errors) => errors.0.into_iter().for_each(|fault| faults.push(fault)),
    }
    let mut linux = spec.linux().clone().unwrap_or_else(empty_linux);
    let mut resources = linux.resources().clone().unwrap_or_default();
    let theirs = resources.devices().clone().unwrap_or_default();
    resources.set_devices(Some(filesystem::bundle_rules(theirs)));
    linux.set_resources(Some(resources));
    spec.set_linux(Some(linux));
    Some(spec)
}

/// The Linux section of a specification that has none; the library's own default is full of settings.
pub(super) fn empty_linux() -> Linux {
    let mut linux = Linux::default();
    linux.set_resources(None).set_namespaces(None).set_masked_paths(None).set_readonly_paths(None);
    linux
}

/// Parses `config.json`; the fault says line, column and field.
fn parse(text: &str, warnings: &mut Vec<String>) -> Result<Spec, Fault> {
    let place = |error: &serde_json::Error| (error.line(), error.column());
    let why = |error: &serde_json::Error| {
        let (line, column) = place(error);
        let message = error.to_string();
        let cause = message.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&message);
        format!("line {line}, column {column}: {cause}")
    };
    if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
        return Err(Fault::new("config.json", why(&error)).hint("it is not JSON"));
    }
    let (text, unknown) = json::without_unknown_capabilities(text);
    for (field, name) in unknown {
        warnings.push(format!("config.json: {field}: `{name}` is left out, since it is no capability known here"));
    }
    serde_json::from_str(&text).map_err(|error| {
        let (line, column) = place(&error);
        let field = json::field_at(&text, line, column);
        let field = if field.is_empty() { "config.json".to_owned() } else { format!("config.json: {field}") };
        Fault::new(field, why(&error)).hint("see the OCI runtime specification for what goes there")
    })
}

/// Paths of the host that are relative start at the bundle.
fn complete(spec: &mut Spec, folder: &Path) {
    if let Some(root) = spec.root_mut().as_mut().filter(|root| !root.path().as_os_str().is_empty()) {
        let path = folder.join(root.path());
        root.set_path(path);
    }
    for mount in spec.mounts_mut().iter_mut().flatten() {
        let bind = MountOptions::of(mount).bind.is_some();
        if let Some(source) = mount.source().as_ref().filter(|source| bind && source.is_relative()) {
            let source = folder.join(source);
            mount.set_source(Some(source));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_say_where() {
        let mut warnings = Vec::new();
        let fault = parse("{\n \"process\": {,\n}", &mut warnings).unwrap_err().to_string();
        assert!(fault.starts_with("config.json: line 2, column 14: ") && fault.ends_with("not JSON"), "{fault}");
        let text = "{\n \"process\": {\"user\": {}, \"cwd\": \"/\",\n  \"rlimits\": [{\"type\": \"RLIMIT_FOO\"}]}}";
        let fault = parse(text, &mut warnings).unwrap_err().to_string();
        assert!(fault.starts_with("config.json: process.rlimits[0].type: line 3, column 35: "), "{fault}");
        assert!(fault.contains("RLIMIT_FOO") && !fault.contains("at line"), "{fault}");
        let fault = parse("{\"mounts\": [{}]}", &mut warnings).unwrap_err().to_string();
        assert!(fault.starts_with("config.json: mounts[0]: ") && fault.contains("destination"), "{fault}");
        assert!(warnings.is_empty());
    }

    #[test]
    fn unknown_capabilities_are_left_out_with_a_warning() {
        let text =
            r#"{"process": {"user": {}, "cwd": "/", "capabilities": {"bounding": ["CAP_KILL", "CAP_TOMORROW"]}}}"#;
        let mut warnings = Vec::new();
        let spec = parse(text, &mut warnings).unwrap();
        assert_eq!(
            spec.process().as_ref().unwrap().capabilities().as_ref().unwrap().bounding().as_ref().unwrap().len(),
            1
        );
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("process.capabilities.bounding[1]: `CAP_TOMORROW`"), "{warnings:?}");
    }
}
