//! Images as people name them.

use crate::{
    closest::closest,
    failure::{Code, Failure, Result},
};
use images::{Image, Store, client::Registries};
use model::image::{ImageName, ReferenceError};
use oci_spec::image::{Arch, Os, Platform};
use std::path::Path;

/// The name as typed.
///
/// # Errors
/// Usage, with the form that is expected.
pub fn parse(text: &str) -> Result<ImageName> {
    text.parse().map_err(|error: ReferenceError| Failure::new(Code::USAGE, error.to_string()))
}

/// What is set for registries in a data folder.
///
/// # Errors
/// The file is not as it should be.
pub fn registries(data: &Path) -> Result<Registries> {
    Registries::read(&data.join("registries.toml")).map_err(|error| Failure::from_client(&error))
}

/// The image of this name, tag, digest or beginning of a digest; a name without registry may be one of the default
/// registry.
///
/// # Errors
/// Those of the store.
pub fn find(store: &Store, data: &Path, text: &str) -> Result<Option<Image>> {
    let name = parse(text.strip_prefix("sha256:").unwrap_or(text))?;
    let look = |name: &ImageName| store.image(name).map_err(|error| Failure::from_store(&error));
    if let Some(image) = look(&name)? {
        return Ok(Some(image));
    }
    match (&name.registry, registries(data)?.default_registry()) {
        (None, Some(default)) => look(&ImageName { registry: Some(default.clone()), ..name }),
        _ => Ok(None),
    }
}

/// As [`find`], where there must be one.
///
/// # Errors
/// Not found, with the closest name there is.
pub fn need(store: &Store, data: &Path, text: &str) -> Result<Image> {
    match find(store, data, text)? {
        Some(image) => Ok(image),
        None => Err(missing(store, text)),
    }
}

/// There is no such image.
pub fn missing(store: &Store, text: &str) -> Failure {
    let failure = Failure::new(Code::NOT_FOUND, format!("there is no image `{text}` on this machine"));
    // The failure at hand counts; that no name can be suggested does not.
    let names: Vec<String> =
        store.images().map(|all| all.iter().map(|image| image.name.to_string()).collect()).unwrap_or_default();
    // Most names are long: what is compared is the last part.
    let short = |name: &str| name.rsplit('/').next().unwrap_or(name).to_owned();
    let shorts: Vec<String> = names.iter().map(|name| short(name)).collect();
    let near = closest(&short(text), shorts.iter().map(String::as_str))
        .and_then(|near| shorts.iter().position(|name| name == near))
        .and_then(|position| names.get(position));
    let failure = match near {
        Some(near) => failure.why(format!("did you mean `{near}`?")),
        None => failure,
    };
    let with_registry = text.parse::<ImageName>().is_ok_and(|name| name.registry.is_some());
    let pull = if with_registry { text } else { "REGISTRY/NAME" };
    failure.next("jdos image ls").next(format!("jdos image pull {pull}"))
}

/// `os/architecture[/variant]`, or an architecture alone.
///
/// # Errors
/// Usage, with the form that is expected.
pub fn platform(text: Option<&str>) -> Result<Platform> {
    let Some(text) = text else { return Ok(images::store::host_platform()) };
    let expected = || {
        let what = format!("--platform `{text}` is not OS/ARCHITECTURE[/VARIANT], such as linux/arm64");
        Failure::new(Code::USAGE, what)
    };
    let parts: Vec<&str> = text.split('/').collect();
    if parts
        .iter()
        .any(|part| part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
    {
        return Err(expected());
    }
    let (os, architecture, variant) = match parts.as_slice() {
        [architecture] => ("linux", *architecture, None),
        [os, architecture] => (*os, *architecture, None),
        [os, architecture, variant] => (*os, *architecture, Some((*variant).to_owned())),
        _ => return Err(expected()),
    };
    // The names that machines call themselves by.
    let architecture = match architecture {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let mut platform = Platform::default();
    platform.set_os(Os::from(os));
    platform.set_architecture(Arch::from(architecture));
    platform.set_variant(variant);
    Ok(platform)
}

#[cfg(test)]
mod tests {
    use super::*;
    use images::store::show_platform;

    #[test]
    fn platforms() {
        for (text, expected) in [
            ("linux/arm64", "linux/arm64"),
            ("linux/arm/v7", "linux/arm/v7"),
            ("aarch64", "linux/arm64"),
            ("windows/x86_64", "windows/amd64"),
        ] {
            assert_eq!(platform(Some(text)).map(|platform| show_platform(&platform)).unwrap(), expected);
        }
        for text in ["", "linux/", "a/b/c/d", "linux/arm 64"] {
            assert_eq!(platform(Some(text)).unwrap_err().code, Code::USAGE, "{text}");
        }
    }

    #[test]
    fn a_missing_image_is_answered_with_the_closest() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("images")).unwrap();
        let failure = need(&store, folder.path(), "debiam:trixie").unwrap_err();
        assert_eq!((failure.code, failure.why.len()), (Code::NOT_FOUND, 0));
        assert_eq!(need(&store, folder.path(), "A B").unwrap_err().code, Code::USAGE);
    }
}
