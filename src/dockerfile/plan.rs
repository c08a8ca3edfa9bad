//! Which stages are needed, and what does each stand on? (A.10 no. 1, A.12)
//!
//! The FROM lines of all stages are expanded, because any may be wrong; all else is looked at only in stages that the
//! target needs. Triggers (ONBUILD) of a base *stage* count as instructions of the stage that stands on it; those of a
//! base image are not known here, so what they need is asked for later, with [`Plan::origin`].

use std::collections::{BTreeMap, HashMap, HashSet};

use super::ast::{Dockerfile, Instruction, Kind, Run, Stage};
use super::platform::Platform;
use super::scope::{Globals, PROXIES, Scope};
use super::stage_deps::{self, Use};
pub use super::stage_deps::{Named, Origin, at};
use super::words::{self, Lookup, WordError, has_variable};
use super::{instruction, mount_flag, parse, remote};
use crate::error::{Context, Error, Result, bail};

/// What the user wants built, and where.
pub struct Options<'a> {
    /// Name of a stage; the last one if not given.
    pub target: Option<&'a str>,
    pub build_args: &'a [(String, String)],
    /// Where the build runs.
    pub build_platform: Platform,
    /// What it is for.
    pub target_platform: Platform,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Index of the stage that is wanted.
    pub target: usize,
    /// The stages to build, in order; the target is the last.
    pub order: Vec<usize>,
    /// All stages of the file.
    pub stages: Vec<Planned>,
    pub globals: Globals,
    /// Images that the stages to build name: what each is called, which may be no image reference, and where.
    pub images: Vec<Named>,
    /// Build arguments that no ARG of the file takes, in their order. Triggers of base images may still do so.
    pub unconsumed: Vec<String>,
    /// Stages of each name, in order.
    names: HashMap<String, Vec<usize>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    pub base: Base,
    /// As FROM says.
    pub platform: Option<Platform>,
    /// Lower case.
    pub name: Option<String>,
    /// Texts of the triggers of a base stage, to be run first.
    pub triggers: Vec<String>,
}

/// What a stage stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    Scratch,
    Stage(usize),
    /// An image reference, not yet checked.
    Image(String),
}

/// Whether a number means a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbers {
    /// `COPY --from=0`
    AreStages,
    /// `--mount=from=0`
    AreNames,
}

/// Plans a build.
pub fn plan(file: &Dockerfile, options: &Options) -> Result<Plan> {
    if file.stages.is_empty() {
        bail!("no FROM instruction: nothing to build");
    }
    let globals = globals(file, options)?;
    let mut stages: Vec<Planned> = Vec::new();
    let mut names: HashMap<String, Vec<usize>> = HashMap::new();
    for (index, stage) in file.stages.iter().enumerate() {
        let planned = planned(stage, file, &names, &globals, options).context(|| at(stage.line, "FROM"))?;
        if let Some(name) = &planned.name {
            names.entry(name.clone()).or_default().push(index);
        }
        stages.push(planned);
    }
    let target = find_target(&stages, options.target)?;
    let unconsumed = unconsumed(file, options);
    let mut plan = Plan { target, order: Vec::new(), stages, globals, images: Vec::new(), unconsumed, names };
    plan.close(file)?;
    Ok(plan)
}

/// An error with the column left out: the texts that are expanded are shown instead.
pub fn word_error(text: &str, e: WordError) -> Error {
    let shown: String = remote::shown(text).chars().take(80).collect();
    Error::new(format!("can't expand {shown}: {}", e.message))
}

pub fn expand(text: &str, escape: char, lookup: Lookup) -> Result<String> {
    words::expand(text, escape, lookup).map_err(|e| word_error(text, e))
}

fn globals(file: &Dockerfile, options: &Options) -> Result<Globals> {
    let (build, target) = (&options.build_platform, &options.target_platform);
    let stage = options.target.map_or_else(|| "default".to_owned(), str::to_lowercase);
    let predefined = [
        ("BUILDPLATFORM", build.to_string()),
        ("BUILDOS", build.os.clone()),
        ("BUILDOSVERSION", build.os_version.clone()),
        ("BUILDARCH", build.arch.clone()),
        ("BUILDVARIANT", build.variant.clone()),
        ("TARGETPLATFORM", target.to_string()),
        ("TARGETOS", target.os.clone()),
        ("TARGETOSVERSION", target.os_version.clone()),
        ("TARGETARCH", target.arch.clone()),
        ("TARGETVARIANT", target.variant.clone()),
        ("TARGETSTAGE", stage),
    ];
    let mut globals = Globals::new(options.build_args, &predefined)?;
    for instruction in &file.globals {
        let Kind::Arg(args) = &instruction.kind else { continue };
        for arg in args {
            let default = arg.default.as_deref().filter(|_| globals.build_arg(&arg.name).is_none());
            let default = default.map(|text| expand(text, file.escape, &|name| globals.lookup(name))).transpose();
            let default = default.context(|| at(instruction.line, "ARG"))?;
            globals.declare(&arg.name, default)?;
        }
    }
    Ok(globals)
}

fn planned(
    stage: &Stage,
    file: &Dockerfile,
    names: &HashMap<String, Vec<usize>>,
    globals: &Globals,
    options: &Options,
) -> Result<Planned> {
    let lookup = |name: &str| globals.lookup(name);
    let image = expand(&stage.from.image, file.escape, &lookup)?;
    if image.is_empty() {
        let error = Error::new(format!("base image name is empty: {}", stage.from.image));
        return Err(error.hint("a variable in FROM must be set by an ARG before the first FROM or by --build-arg"));
    }
    let platform = match &stage.from.platform {
        Some(text) => Some(Platform::parse(&expand(text, file.escape, &lookup)?, &options.target_platform)?),
        None => None,
    };
    let name = match &stage.from.name {
        Some(name) if has_variable(name) => {
            let expanded = expand(name, file.escape, &lookup)?;
            let valid = instruction::valid_stage_name(&expanded);
            Some(valid.ok_or_else(|| Error::new(format!("invalid stage name: {expanded}")))?)
        }
        name => name.clone(),
    };
    let base = match names.get(&image).and_then(|earlier| earlier.last()) {
        Some(&index) => Base::Stage(index),
        None if image == "scratch" => Base::Scratch,
        None => Base::Image(image),
    };
    let triggers = match base {
        Base::Stage(index) => triggers(&file.stages[index]),
        Base::Scratch | Base::Image(_) => Vec::new(),
    };
    Ok(Planned { base, platform, name, triggers })
}

fn triggers(stage: &Stage) -> Vec<String> {
    let trigger = |instruction: &Instruction| match &instruction.kind {
        Kind::Onbuild(onbuild) => Some(onbuild.trigger.clone()),
        _ => None,
    };
    stage.instructions.iter().filter_map(trigger).collect()
}

fn find_target(stages: &[Planned], target: Option<&str>) -> Result<usize> {
    let Some(target) = target else { return Ok(stages.len() - 1) };
    let wanted = target.to_lowercase();
    stages.iter().rposition(|stage| stage.name.as_deref() == Some(wanted.as_str())).ok_or_else(|| {
        let names: Vec<&str> = stages.iter().filter_map(|stage| stage.name.as_deref()).collect();
        let error = Error::new(format!("target stage not found: {target}"));
        if names.is_empty() {
            error.hint("no stage has a name")
        } else {
            error.hint(format!("stages: {}", names.join(" ")))
        }
    })
}

fn unconsumed(file: &Dockerfile, options: &Options) -> Vec<String> {
    let of_stages = file.stages.iter().flat_map(|stage| &stage.instructions);
    let mut names: HashSet<String> = PROXIES.iter().map(|&name| name.to_owned()).collect();
    for instruction in file.globals.iter().chain(of_stages) {
        match &instruction.kind {
            Kind::Arg(args) => names.extend(args.iter().map(|arg| arg.name.clone())),
            Kind::Onbuild(onbuild) if onbuild.keyword == "ARG" => {
                if let Ok(Instruction { kind: Kind::Arg(args), .. }) = parse::parse_trigger(&onbuild.trigger) {
                    names.extend(args.into_iter().map(|arg| arg.name));
                }
            }
            _ => {}
        }
    }
    let unknown = options.build_args.iter().map(|(name, _)| name).filter(|name| !names.contains(*name));
    unknown.cloned().collect()
}

impl Plan {
    pub fn is_needed(&self, stage: usize) -> bool {
        self.order.binary_search(&stage).is_ok()
    }

    /// What `from`, expanded, means in `stage`; empty is the context. Only earlier stages may be used.
    pub fn origin(&self, stage: usize, from: &str, numbers: Numbers) -> Result<Origin> {
        stage_deps::ordered(stage, from, self.resolve(stage, from, numbers)?)
    }

    /// The same, whatever the order of the stages.
    fn resolve(&self, stage: usize, from: &str, numbers: Numbers) -> Result<Origin> {
        if from.is_empty() {
            return Ok(Origin::Context);
        }
        let named = self.find_earlier(stage, from);
        let number = from.parse::<i64>().ok().filter(|_| numbers == Numbers::AreStages && named.is_none());
        let found = match number {
            Some(number) => match usize::try_from(number).ok().filter(|&index| index < self.stages.len()) {
                Some(index) => Some(index),
                None => bail!("no stage has the number {from}: there are {}", self.stages.len()),
            },
            None => named,
        };
        match found {
            Some(index) => Ok(Origin::Stage(index)),
            None if from == "scratch" => Ok(Origin::Scratch),
            None => Ok(Origin::Image(from.to_owned())),
        }
    }

    /// The nearest earlier stage of that name; else any that has it.
    fn find_earlier(&self, stage: usize, name: &str) -> Option<usize> {
        let stages = self.names.get(&name.to_lowercase())?;
        let earlier = stages.partition_point(|&index| index < stage);
        stages[..earlier].last().or_else(|| stages.first()).copied()
    }

    /// Finds the stages that the target needs, and the images that they name.
    fn close(&mut self, file: &Dockerfile) -> Result<()> {
        // What each needed stage uses.
        let mut uses: BTreeMap<usize, Vec<Use>> = BTreeMap::new();
        let mut open = vec![self.target];
        while let Some(stage) = open.pop() {
            if uses.contains_key(&stage) {
                continue;
            }
            let (line, text) = (file.stages[stage].line, file.stages[stage].from.image.clone());
            let from = Use { line, keyword: "FROM", text, origin: Origin::Scratch };
            let base = match &self.stages[stage].base {
                Base::Stage(base) => Use { origin: Origin::Stage(*base), ..from },
                Base::Image(name) => Use { origin: Origin::Image(name.clone()), ..from },
                Base::Scratch => from,
            };
            let mut all = vec![base];
            self.collect_stage(file, stage, &mut all)?;
            open.extend(all.iter().filter_map(Use::stage));
            uses.insert(stage, all);
        }
        stage_deps::check_order(&uses, self.target)?;
        let all = uses.values().flatten();
        self.images = all.filter_map(Use::image).collect();
        self.images.sort_by_key(|image| image.line);
        self.order = uses.into_keys().collect();
        Ok(())
    }

    /// Where a stage's COPY and mounts take their files from, as far as the file says.
    pub fn origins(&self, file: &Dockerfile, stage: usize) -> Result<Vec<Origin>> {
        let mut uses = Vec::new();
        self.collect_stage(file, stage, &mut uses)?;
        uses.into_iter().map(|one| one.ordered(stage)).collect()
    }

    /// The same for a trigger of the base image.
    pub fn origins_of_trigger(&self, file: &Dockerfile, stage: usize, trigger: &Instruction) -> Result<Vec<Origin>> {
        let mut uses = Vec::new();
        let trigger = Instruction { line: file.stages[stage].line, ..trigger.clone() };
        self.collect(file, stage, &trigger, &Scope::default(), &mut uses)?;
        uses.into_iter().map(|one| one.ordered(stage)).collect()
    }

    fn collect_stage(&self, file: &Dockerfile, stage: usize, uses: &mut Vec<Use>) -> Result<()> {
        for text in &self.stages[stage].triggers {
            let line = file.stages[stage].line;
            let trigger = parse::parse_trigger(text).map_err(|diagnostics| trigger_error(text, &diagnostics));
            let trigger = Instruction { line, ..trigger.context(|| at(line, "FROM"))? };
            self.collect(file, stage, &trigger, &Scope::default(), uses).context(|| at(line, trigger.keyword()))?;
        }
        let instructions = &file.stages[stage].instructions;
        let varies = instructions
            .iter()
            .any(|i| matches!(&i.kind, Kind::Copy(copy) if copy.from.as_deref().is_some_and(has_variable)));
        let mut scope = if varies { self.inherited_scope(file, stage)? } else { Scope::default() };
        for instruction in instructions {
            let context = || at(instruction.line, instruction.keyword());
            self.collect(file, stage, instruction, &scope, uses).context(context)?;
            if varies {
                self.declare(file, instruction, &mut scope).context(context)?;
            }
        }
        Ok(())
    }

    fn collect(
        &self,
        file: &Dockerfile,
        stage: usize,
        instruction: &Instruction,
        scope: &Scope,
        uses: &mut Vec<Use>,
    ) -> Result<()> {
        let (line, keyword) = (instruction.line, instruction.keyword());
        let mut add = |text: String, numbers| -> Result<()> {
            let origin = self.resolve(stage, &text, numbers)?;
            uses.push(Use { line, keyword, text, origin });
            Ok(())
        };
        match &instruction.kind {
            Kind::Copy(copy) => match &copy.from {
                Some(from) => add(expand_from(from, file.escape, scope, &self.globals)?, Numbers::AreStages),
                None => Ok(()),
            },
            Kind::Run(Run { mounts, .. }) => mounts
                .iter()
                .filter_map(|text| mount_flag::from(text))
                .try_for_each(|from| add(from, Numbers::AreNames)),
            _ => Ok(()),
        }
    }

    /// The variables that a stage begins with as far as the file alone says, for `COPY --from=$NAME` (A.19).
    fn inherited_scope(&self, file: &Dockerfile, stage: usize) -> Result<Scope> {
        let mut chain = Vec::new();
        let mut at = stage;
        while let Base::Stage(base) = self.stages[at].base {
            chain.push(base);
            at = base;
        }
        let mut scope = Scope::default();
        for instruction in chain.iter().rev().flat_map(|&index| &file.stages[index].instructions) {
            self.declare(file, instruction, &mut scope)?;
        }
        Ok(scope)
    }

    /// Takes the variables of an ARG or ENV over. What cannot be expanded is reported when the instruction itself is
    /// evaluated.
    fn declare(&self, file: &Dockerfile, instruction: &Instruction, scope: &mut Scope) -> Result<()> {
        let expanded = |text: &str, scope: &Scope| expand(text, file.escape, &|name| scope.lookup(name)).ok();
        match &instruction.kind {
            Kind::Arg(args) => {
                for arg in args {
                    let default = arg.default.as_deref().and_then(|text| expanded(text, scope));
                    scope.declare(&arg.name, default, &self.globals)?;
                }
            }
            Kind::Env(pairs) => {
                let values: Vec<Option<String>> = pairs.iter().map(|(_, value)| expanded(value, scope)).collect();
                for ((name, _), value) in pairs.iter().zip(values) {
                    scope.set_env(name, value.unwrap_or_default())?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// The error for a trigger of a base image or stage that does not parse.
pub fn trigger_error(text: &str, diagnostics: &[super::diagnostic::Diagnostic]) -> Error {
    let message = diagnostics.first().map_or("", |diagnostic| diagnostic.message.as_str());
    let first = text.lines().next().unwrap_or_default();
    Error::new(format!("can't parse ONBUILD trigger {first:?}: {message}"))
}

/// The value of `COPY --from`. Variables are other builders' extension: what is not set is an error, because an empty
/// name would mean the context.
pub fn expand_from(from: &str, escape: char, scope: &Scope, globals: &Globals) -> Result<String> {
    if !has_variable(from) {
        return Ok(from.to_owned());
    }
    let expanded = expand(from, escape, &|name| scope.lookup(name).or_else(|| globals.lookup(name)))?;
    if expanded.is_empty() {
        let error = Error::new(format!("--from={from} is empty"));
        return Err(error.hint("name a stage with FROM … AS and use that name"));
    }
    Ok(expanded)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
