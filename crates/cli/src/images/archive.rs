//! `import` and `export`: images in archives.

use super::{Context, find, keep, progress::watch};
use crate::failure::{Code, Failure, Result};
use clap::{Args, ValueEnum};
use images::archive::{self, Format, Imported, Source};
use model::image::ImageName;
use oci_spec::image::Descriptor;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, IsTerminal, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// `import`
#[derive(Args, Debug)]
pub struct ImportArguments {
    /// Archive, or folder with an OCI layout; - for standard input
    #[arg(value_name = "FILE|DIR|-")]
    source: PathBuf,
    /// Name of its only image [default: what the archive says]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Do not show how it comes along
    #[arg(short, long)]
    quiet: bool,
}

/// `export`
#[derive(Args, Debug)]
pub struct ExportArguments {
    /// Names, digests or beginnings of digests
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// Where to; - for standard output
    #[arg(short, long, value_name = "FILE|DIR|-")]
    output: PathBuf,
    /// Form of the archive
    #[arg(long, value_enum, default_value_t = Form::Oci)]
    format: Form,
    /// Of an index the image for this platform, in the docker form (this machine's)
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    platform: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A tar of an OCI layout
    Oci,
    /// A folder with an OCI layout
    OciDir,
    /// What `docker load` reads
    Docker,
}

/// Brings images from an archive.
pub fn import(context: &mut Context<'_, '_, '_>, arguments: &ImportArguments) -> Result<Code> {
    context.printer.quiet = arguments.quiet;
    let store = context.store()?;
    let name = arguments.name.as_deref().map(find::parse).transpose()?;
    keep::make_room(context.printer, &store);
    let imported = watch(context.printer, |progress| {
        let source = match arguments.source.to_str() {
            Some("-") => Source::Stream(Box::new(io::stdin())),
            _ => Source::Path(&arguments.source),
        };
        archive::import(&store, source, name.as_ref(), &*progress)
    });
    let imported: Vec<Imported> = imported.map_err(|error| Failure::from_archive(&error))?;
    keep::make_room(context.printer, &store);
    let documents: Vec<_> = imported
        .iter()
        .map(|image| serde_json::json!({ "names": image.names, "digest": image.target.digest() }))
        .collect();
    context.printer.result(&documents, || {
        imported
            .iter()
            .flat_map(|image| image.names.iter().map(|name| format!("{name}  {}\n", image.target.digest())))
            .collect()
    })?;
    Ok(Code::DONE)
}

/// Writes images to an archive.
pub fn export(context: &mut Context<'_, '_, '_>, arguments: &ExportArguments) -> Result<Code> {
    let store = context.store()?;
    let mut images: Vec<(ImageName, Descriptor)> = Vec::new();
    for text in &arguments.images {
        let image = find::need(&store, context.data, text)?;
        images.push((image.name, image.target));
    }
    let format = match arguments.format {
        Form::Oci => Format::Oci,
        Form::Docker => Format::Docker,
        Form::OciDir => {
            let exported = archive::export_folder(&store, &images, &arguments.output);
            exported.map_err(|error| Failure::from_archive(&error))?;
            return told(context, &images, &arguments.output);
        }
    };
    let platform = arguments.platform.as_deref().map(|text| find::platform(Some(text))).transpose()?;
    let write = |sink: &mut dyn Write| {
        archive::export(&store, &images, format, platform.as_ref(), sink).map_err(|error| Failure::from_archive(&error))
    };
    if arguments.output.as_os_str() != "-" {
        to_file(&arguments.output, write)?;
        return told(context, &images, &arguments.output);
    }
    let stdout = io::stdout();
    if stdout.is_terminal() {
        return Err(
            Failure::new(Code::USAGE, "an archive is not for a terminal").next("jdos image export IMAGE -o FILE")
        );
    }
    // Not the printer's: its buffer is for text, and holds the lock on the stream while nothing is in it.
    let mut sink = BufWriter::with_capacity(1 << 20, unlocked_output()?);
    write(&mut sink)?;
    sink.flush().map_err(|error| Failure::from_error("cannot write the archive", &error))?;
    Ok(Code::DONE)
}

/// A second descriptor of standard output: the first one's lock is the printer's.
fn unlocked_output() -> Result<File> {
    let duplicate = rustix::io::fcntl_dupfd_cloexec(io::stdout(), 3);
    duplicate.map(File::from).map_err(|error| Failure::from_error("cannot write to standard output", &error))
}

fn told(context: &mut Context<'_, '_, '_>, images: &[(ImageName, Descriptor)], output: &Path) -> Result<Code> {
    let names: Vec<_> = images.iter().map(|(name, _)| name).collect();
    let document = serde_json::json!({ "images": names, "output": output });
    context.printer.result(&document, || format!("{}\n", output.display()))?;
    Ok(Code::DONE)
}

/// Written beside its place first, so that what is there is never half an archive.
fn to_file(output: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let fail = |error: &io::Error| Failure::from_error(format!("cannot write {}", output.display()), error);
    let (Some(parent), Some(name)) = (output.parent(), output.file_name()) else {
        return Err(Failure::new(Code::USAGE, format!("{} is not the path of a file", output.display())));
    };
    // A pipe or a device is written to as it is.
    if fs::metadata(output).is_ok_and(|found| !found.is_file()) {
        let mut sink = BufWriter::new(OpenOptions::new().write(true).open(output).map_err(|error| fail(&error))?);
        write(&mut sink)?;
        return sink.flush().map_err(|error| fail(&error));
    }
    let temporary = parent.join(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
    let written = || -> Result<()> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o666).open(&temporary);
        let mut sink = BufWriter::with_capacity(1 << 20, file.map_err(|error| fail(&error))?);
        write(&mut sink)?;
        let file = sink.into_inner().map_err(|error| fail(error.error()))?;
        file.sync_all().and_then(|()| fs::rename(&temporary, output)).map_err(|error| fail(&error))
    };
    written().inspect_err(|_| {
        // The failure is told; half an archive is not kept.
        let _left = fs::remove_file(&temporary).is_err();
    })
}
