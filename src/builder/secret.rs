//! `--secret` and `--ssh`: values that reach one instruction and nothing else.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::error::{Context, Error, Result};

/// Who wrote an instruction: what is the user's own, only the user may use without asking.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Author {
    User,
    /// A trigger (ONBUILD) that came with an image.
    BaseImage,
}

/// Largest secret, bytes (BuildKit has the same).
const MAX_SECRET: u64 = 500 << 10;

/// What the command line gives.
#[derive(Default)]
pub struct Secrets {
    given: Vec<Given>,
    /// `--ssh`: identifier, and socket if one is named.
    agents: Vec<(String, Option<PathBuf>)>,
}

impl Secrets {
    /// From the values of `--secret` and `--ssh`.
    pub fn parse(secrets: &[String], agents: &[String]) -> Result<Secrets> {
        let agent = |text: &String| match text.split_once('=') {
            Some((id, socket)) => (id.to_owned(), Some(PathBuf::from(socket))),
            None => (text.clone(), None),
        };
        Ok(Secrets {
            given: secrets.iter().map(|text| Given::parse(text)).collect::<Result<_>>()?,
            agents: agents.iter().map(agent).collect(),
        })
    }

    /// The content of a secret; `None` if the command line does not give it.
    pub fn find(&self, id: &str) -> Result<Option<Vec<u8>>> {
        self.given.iter().find(|given| given.id == id).map(Given::read).transpose()
    }

    /// The socket of an agent: `--ssh ID=SOCKET`, `--ssh ID`; for `default` also the caller's own, if the user wrote the
    /// instruction.
    pub fn agent(&self, id: &str, author: Author) -> Option<PathBuf> {
        let own = || std::env::var_os("SSH_AUTH_SOCK").filter(|s| !s.is_empty()).map(PathBuf::from);
        match self.agents.iter().find(|(name, _)| name == id) {
            Some((_, Some(socket))) => Some(socket.clone()),
            Some((_, None)) => own(),
            None if id == "default" && author == Author::User => own(),
            None => None,
        }
    }
}

struct Given {
    id: String,
    file: Option<String>,
    variable: Option<String>,
}

impl Given {
    /// `id=ID,src=FILE`, `id=ID,env=VARIABLE`, `id=ID` (a variable or else a file of that name, as with Docker).
    fn parse(text: &str) -> Result<Given> {
        let wrong =
            |why: &str| Error::usage(format!("--secret: {why}")).hint("expected id=ID,src=FILE or id=ID,env=VARIABLE");
        let mut given = Given { id: String::new(), file: None, variable: None };
        let mut kind = None;
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("id", value)) => given.id = value.to_owned(),
                Some(("src" | "source", value)) => given.file = Some(value.to_owned()),
                Some(("env", value)) => given.variable = Some(value.to_owned()),
                Some(("type", value @ ("file" | "env"))) => kind = Some(value),
                _ => return Err(wrong(&format!("can't read {:?}", part.split('=').next().unwrap_or("")))),
            }
        }
        if kind == Some("env") && given.variable.is_none() {
            given.variable = given.file.take().or_else(|| Some(given.id.clone()));
        }
        if given.id.is_empty() {
            return Err(wrong("no id"));
        }
        Ok(given)
    }

    fn read(&self) -> Result<Vec<u8>> {
        let failed = || format!("can't read secret {}", self.id);
        let variable = match (&self.variable, &self.file) {
            (Some(name), _) => {
                let value = std::env::var_os(name).ok_or_else(|| Error::new(format!("${name} is not set")));
                return value.map(OsString::into_vec).context(failed);
            }
            (None, None) => std::env::var_os(&self.id),
            (None, Some(_)) => None,
        };
        if let Some(value) = variable {
            return Ok(value.into_vec());
        }
        let path = self.file.as_deref().unwrap_or(&self.id);
        let mut content = Vec::new();
        let file = File::open(path).context(|| format!("can't open {path}")).context(failed)?;
        file.take(MAX_SECRET + 1).read_to_end(&mut content).context(failed)?;
        if content.len() as u64 > MAX_SECRET {
            return Err(Error::new(format!("larger than {} KiB", MAX_SECRET >> 10)).context(failed()));
        }
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let check = |text: &str, want: Option<(&str, Option<&str>, Option<&str>)>| {
            let got = Given::parse(text).ok();
            let got = got.as_ref().map(|g| (g.id.as_str(), g.file.as_deref(), g.variable.as_deref()));
            assert_eq!(got, want, "{text}");
        };
        check("id=a,src=f", Some(("a", Some("f"), None)));
        check("id=a,env=V", Some(("a", None, Some("V"))));
        check("id=a,type=env", Some(("a", None, Some("a"))));
        check("id=a", Some(("a", None, None)));
        check("src=f", None);
        check("id=a,foo=b", None);
        check("hunter2", None);
    }

    #[test]
    fn agents() {
        let given = Secrets::parse(&[], &["a=/sock".to_owned()]).unwrap();
        for author in [Author::User, Author::BaseImage] {
            assert_eq!(given.agent("a", author), Some("/sock".into()));
            assert_eq!(given.agent("b", author), None);
        }
        assert_eq!(given.agent("default", Author::BaseImage), None);
    }
}
