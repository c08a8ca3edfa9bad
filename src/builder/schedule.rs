//! In which order are stages built? One after another here; `workers` builds several at a time.

use std::rc::Rc;

use super::announce::Cache;
use super::secret::Author;
use super::stage::Stage;
use super::{Build, Session, config, workers};
use crate::dockerfile::ast::{self, Instruction, Kind};
use crate::dockerfile::plan::{Base, Origin};
use crate::error::{Context, Error, Result};
use crate::log::info;

/// Builds the target, and what it needs, and stores it under all its names.
pub fn run(build: &Build) -> Result<()> {
    let _lock = build.storage.lock_image(&build.request.reference)?;
    check_arguments(build)?;
    let mut session = Session::default();
    for instruction in &build.dockerfile.globals {
        session.announce(Cache::Miss, &instruction.text);
    }
    match build.request.jobs.get() {
        1 => build.plan.order.iter().try_for_each(|&index| grow(build, &mut session, index))?,
        jobs => workers::run(build, &mut session, jobs)?,
    }
    tag_others(build, &session)?;
    forget_stages(build, &session)?;
    build.request.force.conclude(&session.force);
    info!("grown in {} instructions: {}", session.number, build.request.tag);
    Ok(())
}

/// One stage, from FROM to its image.
pub fn grow(build: &Build, session: &mut Session, index: usize) -> Result<()> {
    if session.is_finished(index) {
        return Ok(());
    }
    let from = &build.dockerfile.stages[index];
    let mut stage = begin(build, session, index, from)?;
    stage.detect_distribution(&mut session.force);
    let triggers = stage.take_triggers(from.line);
    let author = match build.plan.stages[index].base {
        Base::Image(_) => Author::BaseImage,
        Base::Scratch | Base::Stage(_) => Author::User,
    };
    // A base image's triggers may want stages that nothing in the file does.
    for origin in origins(build, index, &triggers)? {
        if let Origin::Stage(other) = origin {
            grow(build, session, other)?;
        }
    }
    for trigger in &triggers {
        info!("trigger of the base image: {}", crate::log::escape(&trigger.text));
        stage.execute(session, trigger, author)?;
    }
    for instruction in &from.instructions {
        stage.execute(session, instruction, Author::User)?;
    }
    if index == build.plan.target {
        stage.state.add_labels(&build.request.labels);
    }
    let finished = stage.finish(build.reference_of(index)?)?;
    build.storage.commit_image(&finished.image, Vec::new())?;
    session.finished.insert(index, Rc::new(finished));
    Ok(())
}

fn begin<'b>(build: &'b Build, session: &mut Session, index: usize, from: &ast::Stage) -> Result<Stage<'b>> {
    session.announce(Cache::Miss, &from.text);
    let planned = &build.plan.stages[index];
    match &planned.base {
        Base::Scratch => Stage::scratch(build, index),
        Base::Stage(n) => Stage::of_stage(build, index, &*session.stage(*n)?, &planned.triggers),
        Base::Image(name) => {
            Stage::of_image(build, index, &build.image_of_from(name, planned.platform.as_ref(), from.line)?)
        }
    }
}

/// Where a stage takes files from, with what the triggers of its base bring.
pub fn origins(build: &Build, index: usize, triggers: &[Instruction]) -> Result<Vec<Origin>> {
    let mut origins = build.plan.origins(build.dockerfile, index)?;
    for trigger in triggers {
        let wanted = build.plan.origins_of_trigger(build.dockerfile, index, trigger);
        origins.extend(wanted.context(|| format!("{}: trigger of the base image", build.file))?);
    }
    Ok(origins)
}

/// Before any work: each build argument has an ARG, be it in a trigger of a base image, which is pulled for that.
fn check_arguments(build: &Build) -> Result<()> {
    let mut unconsumed = build.plan.unconsumed.clone();
    for &index in &build.plan.order {
        let planned = &build.plan.stages[index];
        let Base::Image(name) = &planned.base else { continue };
        if unconsumed.is_empty() {
            break;
        }
        let image = build.image_of_from(name, planned.platform.as_ref(), build.dockerfile.stages[index].line)?;
        for trigger in config::begin(&image.config, build.dockerfile.escape)?.1 {
            if let Kind::Arg(args) = trigger.kind {
                unconsumed.retain(|name| !args.iter().any(|arg| arg.name == *name));
            }
        }
    }
    match unconsumed.is_empty() {
        true => Ok(()),
        false => Err(Error::new(format!("--build-arg: not consumed: {}", unconsumed.join(" ")))
            .hint("no ARG of the Dockerfile has this name")),
    }
}

/// The image under the other names that it is to have.
fn tag_others(build: &Build, session: &Session) -> Result<()> {
    let finished = session.stage(build.plan.target)?;
    for reference in &build.request.others {
        let _lock = build.storage.lock_image(reference)?;
        let mut image = finished.image.clone();
        image.reference = reference.clone();
        build.storage.commit_image(&image, Vec::new())?;
        info!("also named: {reference}");
    }
    Ok(())
}

/// Stages that failed builds have left under this name are of no use any more.
fn forget_stages(build: &Build, session: &Session) -> Result<()> {
    let is_left = |n: &usize| *n == build.plan.target || !session.is_finished(*n);
    for image in build.storage.images()?.into_iter().flatten() {
        let Some(n) = image.stage().filter(is_left) else { continue };
        if build.stage_reference(n)?.storage_name() == image.reference.storage_name() {
            build.storage.delete_image(&image.reference)?;
        }
    }
    Ok(())
}
