//! `update`: limits of an existing container.

use super::{Context, change::advise, problems::Problems, resources::ResourceArguments};
use crate::failure::{Code, Failure, Result};
use clap::Args;

/// `update`
#[derive(Args, Debug)]
pub struct UpdateArguments {
    #[command(flatten)]
    resources: ResourceArguments,
    /// Name, id or beginning of an id
    #[arg(value_name = "CONTAINER", required = true, help_heading = None)]
    container: String,
}

/// Changes the limits that are given; the others stay as they are.
pub fn update(context: &mut Context<'_, '_, '_>, arguments: &UpdateArguments) -> Result<Code> {
    if arguments.resources.is_empty() {
        return Err(Failure::new(Code::USAGE, "update: no limit is given").next("jdos container update --help"));
    }
    let mut problems = Problems::default();
    let options = arguments.resources.options(&mut problems);
    problems.check("jdos container update")?;
    let id = context.find(&arguments.container)?;
    context.engine.update(&id, &options).map_err(|error| advise(&error, "update", &arguments.container))?;
    let document = serde_json::json!({ "container": arguments.container, "id": id });
    context.printer.result(&document, || format!("{}\n", arguments.container))?;
    Ok(Code::DONE)
}
