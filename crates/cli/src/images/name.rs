//! `tag` and `rm`: names of images.

use super::{Context, find};
use crate::{
    containers::each::{Several, each},
    failure::{Code, Failure, Result},
    print::Printer,
};
use clap::Args;
use serde::Serialize;

/// `tag`
#[derive(Args, Debug)]
pub struct TagArguments {
    /// Name, digest or beginning of a digest
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The new names
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

/// `rm`
#[derive(Args, Debug)]
pub struct RmArguments {
    /// Names, digests or beginnings of digests
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// Take all names of an image away when it was named by its digest
    #[arg(short, long)]
    force: bool,
    /// Do not mind when one is not there
    #[arg(short, long)]
    ignore: bool,
}

impl<'a, 'b> Several<'a, 'b> for Context<'_, 'a, 'b> {
    const NOUN: &'static str = "image";
    fn printer(&mut self) -> &mut Printer<'a, 'b> {
        self.printer
    }
}

#[derive(Serialize)]
struct Named {
    digest: model::image::Digest,
}

#[derive(Serialize)]
struct Removed {
    removed: Vec<String>,
}

/// Gives names.
pub fn tag(context: &mut Context<'_, '_, '_>, arguments: &TagArguments) -> Result<Code> {
    let store = context.store()?;
    let image = find::need(&store, context.data, &arguments.image)?;
    let digest = image.digest().map_err(|error| Failure::from_store(&error))?;
    let one = |_: &mut Context<'_, '_, '_>, text: &str| {
        let name = find::parse(text)?;
        if name.digest.is_some() {
            let what = format!("`{text}` is named by its digest, which is not ours to choose");
            return Err(Failure::new(Code::USAGE, what).next("jdos image tag IMAGE NAME:TAG"));
        }
        store.tag(&name, &image.target).map_err(|error| Failure::from_store(&error))?;
        Ok(Named { digest: digest.clone() })
    };
    each(context, &arguments.names, false, one, |name, _| name.to_owned())
}

/// Takes names away.
pub fn rm(context: &mut Context<'_, '_, '_>, arguments: &RmArguments) -> Result<Code> {
    let store = context.store()?;
    let data = context.data;
    let one = |_: &mut Context<'_, '_, '_>, text: &str| {
        let image = find::need(&store, data, text)?;
        let fail = |error: &images::StoreError| Failure::from_store(error);
        let by_name = find::parse(text).is_ok_and(|name| name.digest.is_none() && name.normalised() == image.name);
        let by_name = by_name || text.contains(['/', ':']) && !text.contains('@') && !text.starts_with("sha256:");
        let names = match by_name {
            true => vec![image.name],
            false => {
                let all = store.images().map_err(|error| fail(&error))?;
                all.into_iter()
                    .filter(|other| other.target.digest() == image.target.digest())
                    .map(|other| other.name)
                    .collect()
            }
        };
        if names.len() > 1 && !arguments.force {
            let all: Vec<String> = names.iter().map(ToString::to_string).collect();
            let what = format!("`{text}` has {} names", names.len());
            let failure = Failure::new(Code::CONFLICT, what).why(all.join(", "));
            return Err(failure.next(format!("jdos image rm --force {text}")));
        }
        let mut removed = Vec::new();
        for name in names {
            if store.untag(&name).map_err(|error| fail(&error))? {
                removed.push(name.to_string());
            }
        }
        Ok(Removed { removed })
    };
    each(context, &arguments.images, arguments.ignore, one, |_, done: &Removed| done.removed.join("\n"))
}
