//! Making what a plan says.

use super::{
    BootstrapError, Kind, Watch,
    difference::{Difference, Index, Layer},
    document, error,
    extras::{self, Both, Certificates, Status},
    known,
    plan::{Plan, Resolved},
    tool::Run,
    tree::{Rules, TreeError, Visitor, visit},
};
use crate::{
    layer::{Compression, PackError, PackOptions, Packed, decoder, pack_stream},
    progress::Event,
    store::{Lease, Store, StoreError, digest_in},
    tarball::Entry,
};
use model::image::Digest;
use oci_spec::image::Descriptor;
use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

/// An image of the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Built {
    /// Its manifest. It has no name yet.
    pub target: Descriptor,
    /// Whether anything had to be made.
    pub made: bool,
}

/// Base images are packed once and fetched often.
const COMPRESSION: Compression = Compression::Zstd(9);
const BUFFER: usize = 1 << 20;

impl Plan {
    /// Makes the image, or takes the one that is there; `lease` holds all of it until it has a name.
    ///
    /// # Errors
    /// [`BootstrapError`]: the store holds nothing new that a collection does not take away again.
    pub fn build(self, store: &Store, lease: &Lease, watch: Watch<'_>) -> Result<Built, BootstrapError> {
        if let Some(image) = self.found() {
            match lease.hold_all(&image.digest()?) {
                Ok(()) => return Ok(Built { target: image.target.clone(), made: false }),
                // Its name was taken away since it was found, and a collection came.
                Err(StoreError::Incomplete { .. } | StoreError::Missing { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.check_room(store)?;
        let maker = Maker { plan: &self, store, lease, watch };
        let layers = match (&self.base, self.request.recipe.kind) {
            (Some(base), _) => maker.two_layers(base)?,
            (None, Kind::System) => vec![maker.base_layer(&self.whole)?],
            (None, Kind::Files) => vec![maker.files()?],
        };
        let target = document::write(store, lease, &self, &layers)?;
        known::made(store, &self.whole.key, &target)?;
        Ok(Built { target, made: true })
    }
}

struct Maker<'a> {
    plan: &'a Plan,
    store: &'a Store,
    lease: &'a Lease,
    watch: Watch<'a>,
}

impl Maker<'_> {
    /// A few files: everything in one layer.
    fn files(&self) -> Result<Packed, BootstrapError> {
        let archive = self.archive("whole", &self.plan.whole)?;
        let mut certificates = Certificates::default();
        let bare = Rules::new(Kind::Files, self.plan.release.date, Vec::new());
        visit(open(&archive)?, &bare, &mut self.stopping(&mut certificates))?;
        let additions = extras::of_files(certificates, &self.plan.whole.listed);
        let rules = Rules::new(Kind::Files, self.plan.release.date, additions);
        self.pack(&archive, &rules, None)
    }

    /// The smallest system: all of an image, or the first layer of one.
    fn base_layer(&self, resolved: &Resolved) -> Result<Packed, BootstrapError> {
        if let Some(packed) = known::base(self.store, self.lease, &resolved.key, COMPRESSION)? {
            return Ok(packed);
        }
        let archive = self.archive("base", resolved)?;
        let rules = self.system_rules();
        let mut status = Status::default();
        visit(open(&archive)?, &rules, &mut self.stopping(&mut status))?;
        check_installed(resolved, &status)?;
        let packed = self.pack(&archive, &rules, None)?;
        known::made_base(self.store, &resolved.key, &packed)?;
        fs::remove_file(&archive).map_err(error::io("remove", &archive))?;
        Ok(packed)
    }

    /// The smallest system, and what a recipe has besides.
    fn two_layers(&self, base: &Resolved) -> Result<Vec<Packed>, BootstrapError> {
        let first = self.base_layer(base)?;
        let archive = self.archive("whole", &self.plan.whole)?;
        self.tell("comparing with the base");
        let rules = self.system_rules();
        let (mut full, mut status) = (Index::default(), Status::default());
        visit(open(&archive)?, &rules, &mut self.stopping(&mut Both(&mut full, &mut status)))?;
        check_installed(&self.plan.whole, &status)?;
        let digest: Digest = digest_in(&first.descriptor)?;
        let blob = self.lease.hold(&digest)?;
        let blob = blob.ok_or(StoreError::Missing { digest })?;
        let counter = AtomicU64::new(0);
        let plain = decoder(blob.open()?, &counter).map_err(error::io("read", &blob.path))?;
        let mut before = Index::default();
        visit(BufReader::with_capacity(BUFFER, plain), &Rules::none(), &mut self.stopping(&mut before))?;
        let difference = Difference::between(&before.finish(), &full.finish());
        if difference.is_empty() {
            return Ok(vec![first]);
        }
        let second = self.pack(&archive, &rules, Some(&difference))?;
        Ok(vec![first, second])
    }

    fn system_rules(&self) -> Rules {
        Rules::new(Kind::System, self.plan.release.date, extras::of_system(&self.plan.context.sources))
    }

    /// Runs mmdebstrap; gives the archive it wrote.
    fn archive(&self, name: &str, resolved: &Resolved) -> Result<PathBuf, BootstrapError> {
        let (request, context) = (&self.plan.request, &self.plan.context);
        let path = self.plan.work.path().join(format!("{name}.tar"));
        let mut arguments = context.arguments(request.recipe.kind, &resolved.wanted);
        // The very lists that were planned with; what the mirror has by now does not matter.
        let hook = format!(
            "mkdir -p \"$1/var/lib/apt/lists\" && cp -l {}/*_* \"$1/var/lib/apt/lists/\"",
            quoted(&context.lists.to_string_lossy())
        );
        arguments.extend(["--format=tar", "--skip=update"].map(str::to_owned));
        arguments.push(format!("--setup-hook={hook}"));
        let merged = Path::new("/usr/share/mmdebstrap/hooks/maybe-merged-usr");
        if request.recipe.kind == Kind::Files && merged.is_dir() {
            // Releases before 13 leave the links from /bin to /usr/bin to a script, which does not run here.
            arguments.push(format!("--hook-dir={}", merged.display()));
        }
        context.place(&mut arguments, &request.suite, &path);
        let packages = resolved.packages.len() as u64;
        let run = Run { arguments, folder: self.plan.work.path(), epoch: self.plan.release.date, packages };
        let done = run.run(&self.watch, |_| {})?;
        done.map_err(|broken| context.explain(broken, request, &resolved.wanted))?;
        Ok(path)
    }

    fn pack(&self, archive: &Path, rules: &Rules, difference: Option<&Difference>) -> Result<Packed, BootstrapError> {
        self.tell("packing a layer");
        let source = open(archive)?;
        let options = PackOptions { compression: COMPRESSION, ..PackOptions::default() };
        let mut failed = None;
        let packed = pack_stream(self.store, self.lease, options.compression, |sink| {
            let mut layer = Layer::new(sink, difference);
            let written = visit(source, rules, &mut self.stopping(&mut layer));
            written.and_then(|()| layer.finish(self.plan.release.date)).map_err(|error| match error {
                TreeError::Pack(error) => error,
                TreeError::Stopped => PackError::Write { source: io::ErrorKind::Interrupted.into() },
                TreeError::Archive(error) => {
                    failed = Some(error);
                    PackError::Write { source: io::ErrorKind::InvalidData.into() }
                }
            })
        });
        if self.watch.stop.load(Ordering::Relaxed) {
            return Err(BootstrapError::Stopped);
        }
        match (packed, failed) {
            (Ok(packed), _) => Ok(packed),
            (Err(_), Some(source)) => Err(BootstrapError::Archive { source }),
            (Err(source), None) => Err(BootstrapError::Pack { source }),
        }
    }

    fn tell(&self, what: &str) {
        self.watch.progress.event(Event::Step { what, done: 0, of: 0 });
    }

    fn stopping<'v, V>(&'v self, visitor: &'v mut V) -> Stopping<'v, V> {
        Stopping { stop: self.watch.stop, visitor }
    }
}

/// A visitor that gives up when the caller wants it to.
struct Stopping<'v, V> {
    stop: &'v AtomicBool,
    visitor: &'v mut V,
}

impl<V: Visitor> Visitor for Stopping<'_, V> {
    fn entry(&mut self, entry: &Entry) -> Result<(), TreeError> {
        match self.stop.load(Ordering::Relaxed) {
            true => Err(TreeError::Stopped),
            false => self.visitor.entry(entry),
        }
    }
    fn data(&mut self, bytes: &[u8]) -> Result<(), TreeError> {
        self.visitor.data(bytes)
    }
}

/// Between planning and making nothing may have come in between.
fn check_installed(resolved: &Resolved, status: &Status) -> Result<(), BootstrapError> {
    let installed = status.packages();
    let names = resolved.packages.keys().chain(installed.keys());
    for name in names {
        let (planned, found) = (resolved.packages.get(name), installed.get(name));
        if planned != found {
            let text = |version: Option<&String>| version.map_or_else(|| "nothing".to_owned(), String::clone);
            return Err(BootstrapError::Changed { package: name.clone(), planned: text(planned), found: text(found) });
        }
    }
    Ok(())
}

fn open(path: &Path) -> Result<impl BufRead + use<>, BootstrapError> {
    Ok(BufReader::with_capacity(BUFFER, File::open(path).map_err(error::io("open", path))?))
}

/// One word for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_must_be_what_was_planned() {
        let text = |packages: &str| -> Status {
            let bytes = super::super::tree::tests::archive(&[(
                super::super::tree::tests::file("var/lib/dpkg/status"),
                packages.as_bytes(),
            )]);
            let mut status = Status::default();
            visit(&bytes[..], &Rules::none(), &mut status).unwrap();
            status
        };
        let resolved = Resolved::of_packages(&[("a", "1")]);
        let same = text("Package: a\nStatus: install ok installed\nVersion: 1\n");
        assert!(check_installed(&resolved, &same).is_ok());
        for other in ["Package: a\nStatus: install ok installed\nVersion: 2\n", ""] {
            assert!(matches!(check_installed(&resolved, &text(other)), Err(BootstrapError::Changed { .. })));
        }
    }

    #[test]
    fn a_word_for_a_shell() {
        assert_eq!(quoted("/a b/c'd"), "'/a b/c'\\''d'");
    }
}
