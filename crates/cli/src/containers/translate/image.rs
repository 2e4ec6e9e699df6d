//! What an image says of a container made from it, as far as the flags do not say otherwise: podman's rules.

use crate::containers::problems::Problems;
use container::{
    options::{CreateOptions, ImageOrigin},
    spec::Signal,
};
use oci_spec::image::Config;
use std::path::{Path, PathBuf};

/// An image that is there.
#[derive(Debug, Clone)]
pub struct FromImage {
    /// As the user named it.
    pub name: String,
    /// The digest of its manifest.
    pub digest: String,
    /// Its layers, bottom first, each once.
    pub layers: Vec<PathBuf>,
    /// What it says of containers.
    pub config: Config,
}

/// Entry point and command. An entry point from the user takes the image's place, and then the image's command is not
/// for it.
pub fn command(entrypoint: Option<Vec<String>>, command: &[String], config: Option<&Config>) -> Vec<String> {
    let own = |words: Option<&Option<Vec<String>>>| words.and_then(Clone::clone).unwrap_or_default();
    let given = entrypoint.is_some();
    // An image may say that it has none by one empty word. Among others it is an argument like any.
    let of_image = || Some(own(config.map(Config::entrypoint))).filter(|words| words != &[""]).unwrap_or_default();
    let mut words = entrypoint.unwrap_or_else(of_image);
    match command {
        [] if !given => words.extend(own(config.map(Config::cmd))),
        command => words.extend_from_slice(command),
    }
    words
}

/// Fills in what no flag said.
pub fn complete(options: &mut CreateOptions, image: &FromImage, problems: &mut Problems) {
    let config = &image.config;
    let mut variables: Vec<(String, String)> = Vec::new();
    for text in config.env().iter().flatten() {
        // What is no variable, no program could read.
        if let Some((name, value)) = text.split_once('=').filter(|(name, _)| !name.is_empty()) {
            variables.retain(|(known, _)| known != name);
            variables.push((name.to_owned(), value.to_owned()));
        }
    }
    variables.retain(|(name, _)| !options.env.iter().any(|(given, _)| given == name));
    options.env.splice(0..0, variables);
    let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if options.workdir.is_none() {
        options.workdir =
            text(config.working_dir()).map(|dir| if dir.starts_with('/') { dir } else { format!("/{dir}") });
    }
    if options.user.is_none() {
        options.user = text(config.user());
    }
    if options.stop_signal.is_none()
        && let Some(signal) = text(config.stop_signal())
    {
        let known = signal.parse::<Signal>();
        let named = |error| format!("of the image {}: {error}; give another with --stop-signal", image.name);
        if problems.take("STOPSIGNAL", known.map_err(named)).is_some() {
            options.stop_signal = Some(signal);
        }
    }
    for (key, value) in config.labels().iter().flatten() {
        options.labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    let mut volumes: Vec<&String> = config.volumes().iter().flatten().collect();
    volumes.sort();
    for volume in volumes {
        if !is_mounted(options, Path::new(volume)) {
            options.image_volumes.push(if volume.starts_with('/') { volume.clone() } else { format!("/{volume}") });
        }
    }
    let mut ports: Vec<String> = config.exposed_ports().iter().flatten().cloned().collect();
    ports.sort();
    options.image = Some(ImageOrigin { name: image.name.clone(), digest: image.digest.clone(), ports });
}

/// Whether a flag mounts something at this place.
fn is_mounted(options: &CreateOptions, place: &Path) -> bool {
    let clean = |text: &str| Path::new("/").join(text.trim_start_matches('/')).components().collect::<PathBuf>();
    let place = clean(&place.to_string_lossy());
    let own = options.image_volumes.iter().map(|inside| clean(inside));
    let volumes = options.volumes.iter().map(|volume| match volume.split(':').nth(1) {
        Some(inside) => clean(inside),
        None => clean(volume),
    });
    let tmpfs = options.tmpfs.iter().map(|tmpfs| clean(tmpfs.split(':').next().unwrap_or_default()));
    volumes.chain(tmpfs).chain(own).any(|mounted| mounted == place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use container::options::RootSource;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn image(text: &str) -> FromImage {
        let config = serde_json::from_str(text).unwrap();
        FromImage { name: "web:1".to_owned(), digest: "sha256:1".to_owned(), layers: vec!["/l".into()], config }
    }

    fn completed(text: &str, change: impl FnOnce(&mut CreateOptions)) -> (CreateOptions, Vec<String>) {
        let mut options = CreateOptions::new(RootSource::Layers(Vec::new()), Vec::new());
        change(&mut options);
        let mut problems = Problems::default();
        complete(&mut options, &image(text), &mut problems);
        (options, problems.into_vec().into_iter().map(|problem| problem.problem).collect())
    }

    #[test]
    fn entry_point_and_command() {
        let both = image(r#"{"Entrypoint": ["serve", "-v"], "Cmd": ["all"]}"#).config;
        let run = |entrypoint: Option<&[&str]>, given: &[&str]| {
            command(entrypoint.map(words), &words(given), Some(&both)).join(" ")
        };
        assert_eq!(run(None, &[]), "serve -v all");
        assert_eq!(run(None, &["one"]), "serve -v one");
        assert_eq!(run(Some(&["sh"]), &[]), "sh", "the image's command is not for the user's entry point");
        assert_eq!(run(Some(&["sh", "-c"]), &["x"]), "sh -c x");
        assert_eq!(run(Some(&[]), &["x"]), "x", "an empty entry point is none");
        assert_eq!(run(Some(&[]), &[]), "");
        let cmd = image(r#"{"Entrypoint": [""], "Cmd": ["sh"]}"#).config;
        assert_eq!(command(None, &[], Some(&cmd)), ["sh"]);
        assert_eq!(command(None, &words(&["x"]), None), ["x"]);
        let empty = image(r#"{"Entrypoint": ["sh", "-c", ""]}"#).config;
        assert_eq!(command(None, &[], Some(&empty)), ["sh", "-c", ""]);
    }

    #[test]
    fn flags_count_more_than_the_image() {
        let text = r#"{"Env": ["PATH=/image", "A=image", "A=again", "junk", "=x"], "User": "www", "WorkingDir": "srv",
            "StopSignal": "SIGQUIT", "Labels": {"a": "image", "b": "image"}}"#;
        let (options, problems) = completed(text, |_| ());
        assert_eq!(problems, Vec::<String>::new());
        let env = |options: &CreateOptions| {
            options.env.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(env(&options), "PATH=/image A=again");
        assert_eq!((options.user.as_deref(), options.workdir.as_deref()), (Some("www"), Some("/srv")));
        assert_eq!(options.stop_signal.as_deref(), Some("SIGQUIT"));
        let (options, _) = completed(text, |options| {
            options.env = vec![("A".to_owned(), "mine".to_owned())];
            options.user = Some("0".to_owned());
            options.workdir = Some("/mine".to_owned());
            options.stop_signal = Some("TERM".to_owned());
            options.labels = [("a".to_owned(), "mine".to_owned())].into();
        });
        assert_eq!(env(&options), "PATH=/image A=mine");
        assert_eq!((options.user.as_deref(), options.workdir.as_deref()), (Some("0"), Some("/mine")));
        assert_eq!(options.stop_signal.as_deref(), Some("TERM"));
        assert_eq!(options.labels.values().collect::<Vec<_>>(), ["mine", "image"]);
        let (_, problems) = completed(r#"{"StopSignal": "SIGNONE"}"#, |_| ());
        assert!(problems[0].contains("web:1") && problems[0].contains("--stop-signal"), "{problems:?}");
    }

    #[test]
    fn volumes_of_the_image_are_the_containers_own_unless_mounted() {
        let text = r#"{"Volumes": {"/data": {}, "/var/lib/db/": {}, "/cache": {}, "/tmp/x": {}},
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}}}"#;
        let (options, _) = completed(text, |options| {
            options.volumes = words(&["db:/var/lib/db", "/cache"]);
            options.tmpfs = words(&["/tmp/x:size=1m"]);
        });
        assert_eq!(options.volumes, ["db:/var/lib/db", "/cache"]);
        assert_eq!(options.image_volumes, ["/data"]);
        let image = options.image.unwrap();
        assert_eq!((image.name.as_str(), image.ports), ("web:1", words(&["53/udp", "80/tcp"])));
    }

    /// A host path in an image's volume would hand the host over to whoever made the image.
    #[test]
    fn an_image_names_no_path_of_the_host() {
        for evil in ["/:/host", "/root/.ssh:/x", "/etc:/x:U", "db:/x"] {
            let (options, _) = completed(&format!(r#"{{"Volumes": {{"{evil}": {{}}}}}}"#), |_| ());
            assert!(options.volumes.is_empty(), "{evil}: {:?}", options.volumes);
            assert_eq!(options.image_volumes.len(), 1);
        }
    }
}
