//! From the flags of `run` and `create` to [`CreateOptions`]: a pure function of the arguments and of what it is told of
//! its surroundings. It collects all errors.

pub mod env;
pub mod image;
mod mount;
mod values;

use super::{create::CreateArguments, problems::Problems};
use container::{
    options::{CreateOptions, NamespaceMode, RootSource},
    spec::Signal,
};
use image::FromImage;
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

/// The image that is named, if the root file system is not from elsewhere.
pub fn image_name(arguments: &CreateArguments) -> Option<&str> {
    let root = &arguments.root;
    let elsewhere = root.rootfs.is_some() || !root.layer.is_empty() || root.bundle.is_some();
    arguments.command.first().filter(|_| !elsewhere).map(String::as_str)
}

/// Options for the engine; what can not be used goes to `problems`, and the result then is of no use. Where an image is
/// named and `image` is not there yet, only the flags are checked.
pub fn create_options(
    arguments: &CreateArguments,
    image: Option<&FromImage>,
    surroundings: &Surroundings<'_>,
    problems: &mut Problems,
) -> CreateOptions {
    let CreateArguments { root, process, resources, storage, network, security, keeping, command, image: _ } =
        arguments;
    let bundle = root.bundle.is_some();
    let named = image_name(arguments).is_some();
    let source = match (named, image) {
        (true, image) => RootSource::Layers(image.map(|image| image.layers.clone()).unwrap_or_default()),
        (false, _) => root_source(arguments, surroundings, problems),
    };
    let entrypoint = entrypoint(process.entrypoint.as_deref(), problems);
    let command = command.get(usize::from(named)..).unwrap_or_default();
    let words = image::command(entrypoint, command, image.map(|image| &image.config));
    let mut options = CreateOptions::new(source, words);
    if options.command.is_empty() && !bundle && (!named || image.is_some()) {
        let why = match image {
            Some(image) => format!("is missing: the image {} says no program to run", image.name),
            None => "is missing: say which program to run".to_owned(),
        };
        problems.add("COMMAND", why);
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
    if let Some(image) = image {
        image::complete(&mut options, image, problems);
    }
    options
}

fn root_source(arguments: &CreateArguments, surroundings: &Surroundings<'_>, problems: &mut Problems) -> RootSource {
    let root = &arguments.root;
    let given = [root.rootfs.is_some(), !root.layer.is_empty(), root.bundle.is_some()];
    match given.iter().filter(|given| **given).count() {
        0 => problems.add(
            "IMAGE",
            "is missing: name an image, or give the root file system as --rootfs DIR, --rootfs FILE.tar, --layer DIR or --bundle DIR",
        ),
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

/// The words of `--entrypoint`: one word, or a JSON array where it begins with `[`; none of an empty one.
fn entrypoint(text: Option<&str>, problems: &mut Problems) -> Option<Vec<String>> {
    Some(match text? {
        "" => Vec::new(),
        text if text.starts_with('[') => {
            let words = serde_json::from_str::<Vec<String>>(text);
            let expected = |_| format!("`{text}` is not a JSON array of words, such as [\"sh\",\"-c\"]");
            problems.take("--entrypoint", words.map_err(expected)).unwrap_or_default()
        }
        word => vec![word.to_owned()],
    })
}

#[cfg(test)]
mod tests;
