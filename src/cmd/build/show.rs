//! `--parse-only` and `--dry-run`: what does the file say, and what would be done? Results, so on standard output.
//!
//! A dry run looks into storage and nowhere else: what an image that is not there sets (ENV, WORKDIR, ONBUILD) is not
//! known, and variables that only it defines are shown as if they were not set.

use std::collections::HashMap;

use crate::builder;
use crate::cli::Options;
use crate::cmd::{Host, print};
use crate::dockerfile::ast::{Dockerfile, Instruction};
use crate::dockerfile::conceal::conceal;
use crate::dockerfile::dump;
use crate::dockerfile::plan::{Base, Plan, at};
use crate::dockerfile::state::State;
use crate::error::{Context, Result};
use crate::log::escape;
use crate::oci::reference::ImageRef;
use crate::storage::{Access, Image, Storage};

/// Nothing to say of a good file, unless asked for.
pub fn tree(options: &Options, dockerfile: &Dockerfile) -> Result<()> {
    if options.verbose == 0 { Ok(()) } else { print(&conceal(&dump::dump(dockerfile))) }
}

/// The stages that are needed, in order; where their bases come from; each instruction as far as it can be expanded.
pub fn plan(host: &Host, plan: &Plan, file: &Dockerfile) -> Result<()> {
    let storage = host.existing_storage(Access::Read)?;
    let mut states: HashMap<usize, State> = HashMap::new();
    let mut text = String::new();
    for &index in &plan.order {
        let stage = &file.stages[index];
        let planned = &plan.stages[index];
        let name = planned.name.as_ref().map_or(String::new(), |name| format!(" ({name})"));
        let mut triggers = builder::parse_triggers(&planned.triggers)?;
        let (mut state, from) = match &planned.base {
            Base::Scratch => (State::of_image(&[], Default::default(), file.escape)?, "nothing".to_owned()),
            Base::Stage(n) => {
                let state = states.get(n).map(State::of_stage);
                (state.map_or_else(|| State::of_image(&[], Default::default(), file.escape), Ok)?, format!("stage {n}"))
            }
            Base::Image(name) => {
                let reference = ImageRef::parse_strict(name).context(|| at(stage.line, "FROM"))?;
                match stored(storage.as_ref(), &reference)? {
                    Some(image) => {
                        let (state, of_image) = builder::begin_with(&image.config, file.escape)?;
                        triggers = of_image;
                        (state, format!("image {reference}, in storage"))
                    }
                    None => {
                        let state = State::of_image(&[], Default::default(), file.escape)?;
                        (state, format!("image {reference}, to be pulled: {}", reference.canonical_remote()))
                    }
                }
            }
        };
        let target = if index == plan.target { ", the target" } else { "" };
        text += &format!("stage {index}{name}{target}: from {}\n", escape(&from));
        for instruction in triggers.iter().chain(&stage.instructions) {
            text += &lines(instruction, &mut state, plan)?;
        }
        states.insert(index, state);
    }
    for (index, stage) in file.stages.iter().enumerate().filter(|(index, _)| !plan.is_needed(*index)) {
        text += &format!("stage {index}: not needed: {}\n", escape(&stage.from.image));
    }
    print(&text)
}

fn stored(storage: Option<&Storage>, reference: &ImageRef) -> Result<Option<Image>> {
    storage.map_or(Ok(None), |storage| storage.image(reference))
}

fn lines(instruction: &Instruction, state: &mut State, plan: &Plan) -> Result<String> {
    let step = state.step(instruction, &plan.globals)?;
    let texts = builder::texts(instruction, &step, state);
    Ok(texts.iter().map(|text| format!("  {}\n", escape(&conceal(text)))).collect())
}
