//! Creating a container: everything is checked, then stored; nothing runs yet.

use super::{
    Engine,
    error::{At, EngineError},
};
use crate::{
    options::{CreateOptions, RuntimeKind, SeccompChoice},
    record::Record,
    seccomp,
    spec::{self, Built, Facts, Fault, SpecErrors},
};
use jiff::Timestamp;
use model::{ContainerId, ContainerName};
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, open},
    rand::{GetRandomFlags, getrandom},
};
use std::{
    fs, io,
    os::fd::OwnedFd,
    os::unix::fs::{DirBuilderExt, symlink},
    path::Path,
};

/// What `create` made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// Its id.
    pub id: ContainerId,
    /// Its name, as given or found.
    pub name: ContainerName,
    /// What was asked for and can not be had.
    pub warnings: Vec<String>,
}

/// Tries at finding a name that nobody has.
const NAMES: u32 = 16;

impl Engine {
    /// Checks a request and stores it. When it fails nothing is left behind.
    ///
    /// # Errors
    /// [`EngineError::Spec`] with every fault of the request, [`EngineError::Seccomp`], [`EngineError::NameTaken`],
    /// [`EngineError::File`].
    pub fn create(&self, options: &CreateOptions) -> Result<Created, EngineError> {
        if options.runtime == RuntimeKind::Runc {
            let fault = Fault::new("--runtime", "runc behind this engine is not there yet").of("runc");
            return Err(EngineError::Spec(SpecErrors(vec![fault.hint("leave the flag out")])));
        }
        let mut bytes = [0; 24];
        let random = Path::new("the kernel's random numbers");
        getrandom(&mut bytes, GetRandomFlags::empty()).at("read", random)?;
        let (mut id, mut number) = ([0; 16], [0; 8]);
        id.copy_from_slice(&bytes[..16]);
        number.copy_from_slice(&bytes[16..]);
        let (id, mut number) = (ContainerId::from_random(id), u64::from_ne_bytes(number));
        let facts = Facts::read().at("read", Path::new("/proc/self/limits"))?;
        let mut context = spec::Context::new(&self.layout, id.clone(), number, Timestamp::now());
        if let SeccompChoice::Profile(path) = &options.seccomp {
            let text = fs::read(path).at("read", path)?;
            let capabilities = spec::build(options, &facts, &context).map_err(EngineError::Spec)?.capabilities;
            let fail = |source| EngineError::Seccomp { path: path.clone(), source };
            context.seccomp = Some(seccomp::parse(&text, capabilities).map_err(fail)?);
        }
        let _creating = self.creation_lock(FlockOperation::LockShared)?;
        for _ in 0..NAMES {
            context.random = number;
            let built = spec::build(options, &facts, &context).map_err(EngineError::Spec)?;
            if let Some(path) = built.chown.first() {
                let why = "the option `U` is not supported: id-mapped mounts give the files their owners";
                return Err(EngineError::Spec(SpecErrors(vec![Fault::new("--volume", why).of(path.display())])));
            }
            let (name, named) = (built.record.name.clone(), built.record.named);
            match symlink(id.as_str(), self.layout.name(&name)) {
                Ok(()) => {
                    let made = self.make(built);
                    if made.is_err() {
                        self.unmake(&id, &name);
                    }
                    return made;
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !named => {
                    number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let owner = fs::read_link(self.layout.name(&name)).unwrap_or_default();
                    let id = owner.to_string_lossy().chars().take(12).collect();
                    return Err(EngineError::NameTaken { name: name.to_string(), id });
                }
                Err(error) => return Err(error).at("make", &self.layout.name(&name)),
            }
        }
        Err(io::Error::other("every name tried is taken; give one with --name"))
            .at("name", &self.layout.data().join("names"))
    }

    /// Held shared while something is being created, so that the sweep does not take the unfinished for left-overs.
    pub(super) fn creation_lock(&self, operation: FlockOperation) -> Result<Option<OwnedFd>, EngineError> {
        let path = self.layout.run().join("create.lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let file = open(&path, flags, Mode::from_raw_mode(0o600)).at("open", &path)?;
        loop {
            match flock(&file, operation) {
                Ok(()) => return Ok(Some(file)),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(errno) => return Err(errno).at("lock", &path),
            }
        }
    }

    fn make(&self, built: Built) -> Result<Created, EngineError> {
        let Built { record, warnings, unpack, volumes, .. } = built;
        let folder = self.layout.container(&record.id);
        let make = |path: &Path, mode| fs::DirBuilder::new().mode(mode).create(path).at("make", path);
        make(&folder, 0o711)?;
        for (name, mode) in folders(&record) {
            make(&folder.join(name), mode)?;
        }
        if let Some(tar) = unpack {
            unpack_tar(&tar, &folder.join("rootfs"))?;
        }
        self.make_volumes(&record, &volumes)?;
        let filter = record.spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
        if let Some(profile) = filter
            && !record.default_seccomp
        {
            let path = folder.join("seccomp.bpf");
            let program =
                seccomp::compile(profile).map_err(|source| EngineError::Seccomp { path: path.clone(), source })?;
            fs::write(&path, program).at("write", &path)?;
        }
        self.store(&record)?;
        self.volumes_are_recorded(&record)?;
        Ok(Created { id: record.id, name: record.name, warnings })
    }

    /// Takes back a creation that failed; what can not be removed now has no record and is swept later.
    fn unmake(&self, id: &ContainerId, name: &ContainerName) {
        let volumes = self.remove_unfinished_volumes(id);
        for error in [volumes.err(), self.discard(id).err(), self.free_name(name, id).err()].into_iter().flatten() {
            tracing::warn!(%error, %id, "the rest of a failed creation is left to the next sweep");
        }
    }
}

fn folders(record: &Record) -> Vec<(&'static str, u32)> {
    use crate::record::Root;
    let mut all = vec![("log", 0o700)];
    match &record.root {
        Root::Directory(_) => {}
        Root::Owned => all.push(("rootfs", 0o755)),
        Root::Layers(_) => all.extend([("upper", 0o755), ("work", 0o755)]),
    }
    all
}

fn unpack_tar(tar: &Path, target: &Path) -> Result<(), EngineError> {
    let file = fs::File::open(tar).at("open", tar)?;
    let mut archive = tar::Archive::new(io::BufReader::new(file));
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    archive.set_unpack_xattrs(true);
    archive.unpack(target).at("unpack", tar)
}
