//! What the site and the user have set, put before what the command line of ch-run says, so that the latter wins.

use std::ffi::OsStr;
use std::path::PathBuf;

use super::{devices, host};
use crate::cli::ch_run_args;
use crate::container::inject::Devices;
use crate::container::request::{Change, Request};
use crate::container::{Bind, Need};
use crate::error::{Result, bail};
use crate::log::{escape, verbose};
use crate::site::{Setting, Settings, Word};

/// Adds the settings to the request.
pub fn apply(request: &mut Request, settings: &Settings) -> Result<()> {
    check(settings)?;
    let mut set = Request::new(request.image.clone());
    for setting in settings.with(&request.modules)? {
        match setting.value() {
            Some(value) if !is_absent(setting, &request.devices) => add(&mut set, setting, value)?,
            Some(_) | None => verbose!("not used: {}: {}", escape(&setting.to_string()), escape(&setting.shown())),
        }
    }
    set.devices.named.append(&mut request.devices.named);
    request.devices.named = set.devices.named;
    set.binds.append(&mut request.binds);
    set.changes.append(&mut request.changes);
    request.binds = set.binds;
    request.changes = set.changes;
    request.preset = request.preset.or(set.preset);
    if request.storage.is_none() && host::storage_variable().is_none() {
        request.storage = settings.storage().and_then(Setting::value).map(PathBuf::from);
    }
    Ok(())
}

/// An error if a setting can't be used.
pub fn check(settings: &Settings) -> Result<()> {
    let mut set = Request::new("".into());
    let values = settings.all().iter().filter_map(|setting| Some((setting, setting.value()?)));
    values.into_iter().try_for_each(|(setting, value)| add(&mut set, setting, value))
}

/// Whether what it is about is not there on this machine: then it is left out.
pub fn is_absent(setting: &Setting, devices: &Devices) -> bool {
    let Some(value) = setting.value() else { return false };
    match setting.word() {
        Word::Bind => ch_run_args::bind(OsStr::new(value), "").is_ok_and(|bind| !bind.source.exists()),
        Word::Device => ch_run_args::device(OsStr::new(value), "").is_ok() && !devices::is_known(value, devices),
        Word::Env | Word::UnsetEnv | Word::Store | Word::Storage => false,
    }
}

fn add(set: &mut Request, setting: &Setting, value: &str) -> Result<()> {
    let at = escape(&setting.to_string()).into_owned();
    let is_path = matches!(setting.word(), Word::Bind | Word::Store | Word::Storage);
    if is_path && !value.starts_with('/') {
        bail!("{at}: {}: not an absolute path: {}", setting.word().name(), escape(value));
    }
    match setting.word() {
        Word::Bind => set.binds.push(Bind { need: Need::IfSource, ..ch_run_args::bind(OsStr::new(value), &at)? }),
        Word::Env => ch_run_args::env(set, OsStr::new(value), &at)?,
        Word::UnsetEnv => set.changes.push(Change::Unset(value.into())),
        Word::Device => set.devices.named.push(ch_run_args::device(OsStr::new(value), &at)?),
        // Not of the container.
        Word::Storage | Word::Store => {}
    }
    Ok(())
}
