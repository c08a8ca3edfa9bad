//! Who are we at a registry? From the command line, the environment, configuration files, the terminal.
//!
//! `CH_IMAGE_USERNAME` and `CH_IMAGE_PASSWORD` are for the registry that the command line names, or that FROM names if
//! `--auth` says so, never for one that an image brings in. They are wiped from the environment as soon as they are read, so that neither a child nor
//! `/proc/PID/environ` shows them.

use std::ffi::OsStr;
use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::cli::Options;
use crate::error::{Error, Result};
use crate::log::warning;
use crate::registry::Endpoint;
use crate::registry::credential_sources::{self, CredentialSources, Given, Prompt, Sources};
use crate::registry::credentials::{Credentials, Login};
use crate::registry::settings::Settings;
use crate::sys;
use crate::sys::secret::Secret;

const USERNAME: &str = "CH_IMAGE_USERNAME";
const PASSWORD: &str = "CH_IMAGE_PASSWORD";

/// Until [`credentials`] takes it.
static GIVEN: Mutex<(Option<String>, Option<Secret>)> = Mutex::new((None, None));

/// Takes the secrets out of the environment. Call before any thread or child exists.
pub fn take_from_environment() {
    let take = |name: &str| {
        let value = std::env::var(name).ok().filter(|v| !v.is_empty());
        sys::process::wipe_variable(name);
        value
    };
    *given() = (take(USERNAME), take(PASSWORD).map(Secret::from));
}

/// Whether a variable is one of those that [`take_from_environment`] takes; they stay there, empty.
pub fn is_secret(name: &OsStr) -> bool {
    name == USERNAME || name == PASSWORD
}

fn given() -> MutexGuard<'static, (Option<String>, Option<Secret>)> {
    GIVEN.lock().unwrap_or_else(|e| e.into_inner())
}

/// Credentials; what the environment or standard input gives is for these registries alone. `elsewhere` says why. Asked for
/// once in the life of a process.
pub fn credentials(
    options: &Options,
    registries: Vec<Endpoint>,
    elsewhere: &'static str,
    settings: &Settings,
) -> Result<Arc<dyn Credentials>> {
    let (user, password) = std::mem::take(&mut *given());
    let password = match options.password_stdin {
        true if registries.is_empty() => {
            warning!("--password-stdin: not used: {elsewhere}");
            None
        }
        true => Some(credential_sources::password_from(&mut io::stdin().lock())?),
        false => password,
    };
    let login = match (user, password) {
        (Some(user), Some(password)) => Some(Login::Password { user, password }),
        (Some(_), None) if options.password_stdin => None,
        (None, Some(_)) if options.password_stdin => {
            return Err(Error::new("--password-stdin: no user name").hint(format!("set {USERNAME}")));
        }
        (Some(_), None) => {
            warning!("{USERNAME} is set, but {PASSWORD} is not: neither is used");
            None
        }
        (None, Some(_)) => {
            warning!("{PASSWORD} is set, but {USERNAME} is not: neither is used");
            None
        }
        (None, None) => None,
    };
    // What is for nobody is not kept.
    let login = login.filter(|_| !registries.is_empty());
    let prompt = match (io::stdin().is_terminal(), options.password_many) {
        (false, _) => Prompt::Never,
        (true, false) => Prompt::Once,
        (true, true) => Prompt::EachTime,
    };
    let files = settings.credential_files.clone();
    Ok(Arc::new(CredentialSources::new(Sources { given: Given { login, registries, elsewhere }, files, prompt })))
}
