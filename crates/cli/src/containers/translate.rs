//! From the flags of `run` and `create` to [`CreateOptions`]: a pure function of the arguments and of what it is told of
//! its surroundings. It collects all errors.

pub mod env;
mod mount;
mod values;

use super::{create::CreateArguments, problems::Problems};
use container::{
    options::{CreateOptions, NamespaceMode, RootSource},
    spec::Signal,
};
use std::{
    io,
    path::{Path, PathBuf},
};

/// What the meaning of arguments depends on besides themselves.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// The caller's working directory, absolute.
    pub directory: &'a Path,
    /// The caller's environment.
    pub environment: &'a [(String, String)],
    /// Reads a text file.
    pub read: &'a dyn Fn(&Path) -> io::Result<String>,
    /// Whether a path is a file (not a directory, not absent).
    pub is_file: &'a dyn Fn(&Path) -> bool,
}

impl Surroundings<'_> {
    /// The path as seen from the root.
    fn absolute(&self, path: &str) -> PathBuf {
        let joined = self.directory.join(path);
        // `.` and trailing slashes go; `..` stays: only the kernel knows what it means behind a symbolic link.
        joined.components().collect()
    }
}

/// Options for the engine; what can not be used goes to `problems`, and the result then is of no use.
pub fn create_options(
    arguments: &CreateArguments,
    surroundings: &Surroundings<'_>,
    problems: &mut Problems,
) -> CreateOptions {
    let CreateArguments { root, process, resources, storage, network, security, keeping, command } = arguments;
    let bundle = root.bundle.is_some();
    let source = root_source(arguments, surroundings, problems);
    let mut options = CreateOptions::new(source, full_command(process.entrypoint.as_deref(), command, problems));
    if options.command.is_empty() && !bundle {
        problems.add("COMMAND", "is missing: say which program to run");
    }
    options.tty = process.tty;
    options.interactive = process.interactive;
    options.env = env::environment(&process.env, &process.env_file, surroundings, problems);
    options.workdir = process.workdir.clone();
    if process.workdir.as_ref().is_some_and(|dir| !dir.starts_with('/')) {
        problems.add("--workdir", "is not absolute: it is a path inside the container");
    }
    options.user = process.user.clone();
    options.groups = process.group_add.clone();
    options.ulimit = process.ulimit.clone();
    options.oom_score_adj = values::ranged("--oom-score-adj", &process.oom_score_adj, -1000, 1000, problems);
    options.resources = resources.options(problems);

    options.read_only = storage.read_only;
    options.devices = storage.device.clone();
    options.volumes = values::volumes(&storage.volume, surroundings, problems);
    options.tmpfs = storage.tmpfs.clone();
    options.shm_size = values::parsed("--shm-size", &storage.shm_size, problems);
    for text in &storage.mount {
        match problems.take("--mount", mount::translate(text, surroundings)) {
            Some(mount::Mount::Volume(volume)) => options.volumes.push(volume),
            Some(mount::Mount::Tmpfs(tmpfs)) => options.tmpfs.push(tmpfs),
            None => {}
        }
    }

    options.network = network.network.as_ref().and_then(|text| values::network(text, problems));
    options.publish = values::ports(&network.publish, problems);
    options.ip = values::parsed("--ip", &network.ip, problems);
    options.hostname = network.hostname.clone();
    options.dns = values::dns(network, problems);

    options.cap_add = values::capabilities("--cap-add", &security.cap_add, problems);
    options.cap_drop = values::capabilities("--cap-drop", &security.cap_drop, problems);
    options.privileged = security.privileged;
    // What is allowed everything may also gain privileges, unless it is said that it may not.
    options.no_new_privileges = !security.privileged;
    values::security(&security.security_opt, surroundings, &mut options, problems);
    options.sysctl = values::pairs("--sysctl", &security.sysctl, problems);
    options.userns = values::namespace("--userns", &security.userns, problems);
    let mut own = |flag, text| values::namespace(flag, text, problems).unwrap_or(NamespaceMode::Private);
    options.pid = own("--pid", &security.pid);
    options.ipc = own("--ipc", &security.ipc);
    options.uts = own("--uts", &security.uts);
    options.cgroupns = own("--cgroupns", &security.cgroupns);

    options.name = values::parsed("--name", &keeping.name, problems);
    options.remove = keeping.rm;
    options.labels = values::labels(&keeping.label, problems);
    options.stop_signal = keeping.stop_signal.clone();
    if let Some(text) = &keeping.stop_signal {
        problems.take("--stop-signal", text.parse::<Signal>());
    }
    options.stop_timeout = values::ranged("--stop-timeout", &keeping.stop_timeout, 0, u32::MAX, problems);
    options.log = values::log(&keeping.log_opt, problems);
    options.runtime = values::runtime(&keeping.runtime, problems);
    if keeping.replace && keeping.name.is_none() {
        problems.add("--replace", "needs --name: it replaces the container of that name");
    }
    options
}

fn root_source(arguments: &CreateArguments, surroundings: &Surroundings<'_>, problems: &mut Problems) -> RootSource {
    let root = &arguments.root;
    let given = [root.rootfs.is_some(), !root.layer.is_empty(), root.bundle.is_some()];
    match given.iter().filter(|given| **given).count() {
        0 => {
            let image = arguments.command.first().map(|word| format!(" (`{word}` is taken as the command)"));
            problems.add(
                "--rootfs",
                format!(
                    "is missing: give the root file system as --rootfs DIR, --rootfs FILE.tar, --layer DIR or --bundle DIR{}",
                    image.unwrap_or_default()
                ),
            );
        }
        1 => {}
        _ => problems.add("--rootfs", "only one of --rootfs, --layer and --bundle can be the root file system"),
    }
    let mut absolute = |flag: &str, path: &String| {
        if path.is_empty() {
            problems.add(flag, "is empty: expected a path");
        }
        surroundings.absolute(path)
    };
    if let Some(bundle) = &root.bundle {
        RootSource::Bundle(absolute("--bundle", bundle))
    } else if let Some(rootfs) = &root.rootfs {
        let path = absolute("--rootfs", rootfs);
        match (surroundings.is_file)(&path) {
            true => RootSource::Tar(path),
            false => RootSource::Directory(path),
        }
    } else {
        RootSource::Layers(root.layer.iter().map(|layer| absolute("--layer", layer)).collect())
    }
}

/// Entry point and command together. An entry point that begins with `[` is a JSON array of words.
fn full_command(entrypoint: Option<&str>, command: &[String], problems: &mut Problems) -> Vec<String> {
    let mut words = match entrypoint {
        None | Some("") => Vec::new(),
        Some(text) if text.starts_with('[') => {
            let words = serde_json::from_str::<Vec<String>>(text);
            let expected = |_| format!("`{text}` is not a JSON array of words, such as [\"sh\",\"-c\"]");
            problems.take("--entrypoint", words.map_err(expected)).unwrap_or_default()
        }
        Some(word) => vec![word.to_owned()],
    };
    words.extend_from_slice(command);
    words
}

#[cfg(test)]
mod tests;
