//! What does one logical line say? One function per instruction (A.4 to A.7).
//!
//! Only the form is checked here. What needs the value of a variable is checked when the instruction is reached.

use std::borrow::Cow;

use super::ast::{
    Add, Arg, Check, Command, Copy, From, Healthcheck, Heredoc, Kind, List, Network, Onbuild, Pairs, Run, Security,
    Source, Transfer,
};
use super::diagnostic::{Level, SyntaxError, nearest};
use super::flags::{self, Flag, Type};
use super::heredoc::{self, Missing};
use super::json::{self, Array};
use super::lines::{Lines, Logical, is_blank, is_separator};
use super::{duration, mount_flag, split};

const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

type Parsed<T> = Result<T, SyntaxError>;

/// What one logical line says.
pub enum Statement {
    /// The outer result of reading it is about the tree, the inner one about the instruction.
    From(Parsed<From>),
    Instruction(Kind),
}

impl Statement {
    /// Also returns where in the line the keyword is.
    pub fn parse(logical: &Logical, lines: &mut Lines, escape: char) -> Parsed<(Statement, usize)> {
        let text = logical.text.trim_end_matches(is_blank);
        let start = text.len() - text.trim_start_matches(is_blank).len();
        let text = &text[start..];
        let (keyword, rest) = split::split_once(text).unwrap_or((text, ""));
        let keyword = upper(keyword);
        let base = start + text.len() - rest.len();
        let (flags, arguments_at) = flags::split(rest, base, escape);
        let rest = &rest[arguments_at..];
        let blanks = rest.len() - rest.trim_start_matches(is_blank).len();
        let mut parser = Parser {
            keyword: &keyword,
            keyword_at: start,
            text: rest.trim_matches(is_blank),
            at: base + arguments_at + blanks,
            flags,
            escape,
            heredocs: Vec::new(),
        };
        parser.take_heredocs(&logical.text, lines)?;
        let statement = match parser.keyword {
            "FROM" => Statement::From(parser.parse_from()),
            _ => Statement::Instruction(parser.parse_kind()?),
        };
        Ok((statement, start))
    }
}

const COPY_FLAGS: [(&str, Type); 6] = [
    ("from", Type::Text),
    ("chown", Type::Text),
    ("chmod", Type::Text),
    ("link", Type::Bool),
    ("parents", Type::Bool),
    ("exclude", Type::List),
];
const ADD_FLAGS: [(&str, Type); 7] = [
    ("chown", Type::Text),
    ("chmod", Type::Text),
    ("link", Type::Bool),
    ("exclude", Type::List),
    ("checksum", Type::Text),
    ("keep-git-dir", Type::Bool),
    ("unpack", Type::Bool),
];
const RUN_FLAGS: [(&str, Type); 4] =
    [("mount", Type::List), ("network", Type::Text), ("security", Type::Text), ("device", Type::List)];
const HEALTHCHECK_FLAGS: [(&str, Type); 5] = [
    ("interval", Type::Text),
    ("timeout", Type::Text),
    ("start-period", Type::Text),
    ("start-interval", Type::Text),
    ("retries", Type::Text),
];

/// One instruction: keyword, flags, and the text of its arguments, trimmed.
struct Parser<'a> {
    keyword: &'a str,
    keyword_at: usize,
    text: &'a str,
    /// Offset of `text` in the logical line.
    at: usize,
    flags: Vec<Flag>,
    escape: char,
    heredocs: Vec<Heredoc>,
}

impl Parser<'_> {
    fn take_heredocs(&mut self, line: &str, lines: &mut Lines) -> Parsed<()> {
        if !line.contains("<<") {
            return Ok(());
        }
        let (keyword, text) = match self.keyword {
            "ONBUILD" => {
                let (keyword, rest) = split::split_once(self.text).unwrap_or((self.text, ""));
                let (_, at) = flags::split(rest, 0, self.escape);
                (upper(keyword), rest[at..].trim_matches(is_blank))
            }
            keyword => (Cow::Borrowed(keyword), self.text),
        };
        let missing = match keyword.as_ref() {
            "RUN" => Missing::Bend,
            "COPY" | "ADD" => Missing::Refuse,
            _ => return Ok(()),
        };
        if json::array(text) == Array::No {
            self.heredocs = heredoc::take(line, lines, missing)?;
        }
        Ok(())
    }

    fn parse_kind(&mut self) -> Parsed<Kind> {
        match self.keyword {
            "ADD" => self.parse_add().map(Box::new).map(Kind::Add),
            "ARG" => self.parse_arg().map(Kind::Arg),
            "CMD" => self.parse_command().map(Kind::Cmd),
            "COPY" => self.parse_copy().map(Box::new).map(Kind::Copy),
            "ENTRYPOINT" => self.parse_command().map(Kind::Entrypoint),
            "ENV" => self.parse_pairs().map(Kind::Env),
            "EXPOSE" => self.parse_expose().map(Kind::Expose),
            "HEALTHCHECK" => self.parse_healthcheck().map(Kind::Healthcheck),
            "LABEL" => self.parse_pairs().map(Kind::Label),
            "MAINTAINER" => self.parse_raw("NAME").map(Kind::Maintainer),
            "ONBUILD" => self.parse_onbuild().map(Kind::Onbuild),
            "RUN" => self.parse_run().map(Kind::Run),
            "SHELL" => self.parse_shell().map(Kind::Shell),
            // Its flags are dropped unseen (A.18 no. 6).
            "STOPSIGNAL" => self.expect_text("SIGNAL").map(Kind::Stopsignal),
            "USER" => self.parse_raw("USER[:GROUP]").map(Kind::User),
            "VOLUME" => self.parse_volume().map(Kind::Volume),
            "WORKDIR" => self.parse_raw("DIRECTORY").map(Kind::Workdir),
            _ => Err(self.unknown()),
        }
    }

    fn unknown(&self) -> SyntaxError {
        if self.keyword.is_empty() {
            return SyntaxError::instr(self.keyword_at, "expected an instruction");
        }
        let error = SyntaxError::instr(self.keyword_at, format!("unknown instruction: {}", self.keyword));
        if self.keyword.contains(|c| is_blank(c) && !is_separator(c)) {
            return error.hint("there is a no-break or other special space in it; use an ordinary one");
        }
        match nearest(self.keyword, &KEYWORDS) {
            Some(near) => error.hint(format!("did you mean {near}?")),
            None => error,
        }
    }

    fn check_flags(&mut self, table: &[(&'static str, Type)]) -> Parsed<flags::Flags> {
        flags::check(self.keyword, std::mem::take(&mut self.flags), table)
    }

    fn expected(&self, what: &str) -> SyntaxError {
        SyntaxError::instr(self.at, format!("{}: expected {what}", self.keyword))
    }

    /// All the text, which may not be empty.
    fn expect_text(&self, what: &str) -> Parsed<String> {
        if self.text.is_empty() { Err(self.expected(what)) } else { Ok(self.text.to_owned()) }
    }

    /// The text's JSON array, if it is one.
    fn accept_json(&self) -> Parsed<Option<Vec<String>>> {
        match json::array(self.text) {
            Array::Strings(strings) => Ok(Some(strings)),
            Array::Others => Err(SyntaxError::ast(self.at, "expected only strings in the JSON array")),
            Array::No => Ok(None),
        }
    }

    fn parse_raw(&mut self, what: &str) -> Parsed<String> {
        self.check_flags(&[])?;
        self.expect_text(what)
    }

    fn json_or_text(&self) -> Parsed<Command> {
        Ok(match self.accept_json()? {
            Some(strings) => Command::Exec(strings),
            None => Command::Shell(self.text.to_owned()),
        })
    }

    fn json_or_words(&self) -> Parsed<List> {
        Ok(match self.accept_json()? {
            Some(strings) => List::Json(strings),
            None => List::Words(split::words(self.text)),
        })
    }

    /// CMD, ENTRYPOINT.
    fn parse_command(&mut self) -> Parsed<Command> {
        let command = self.json_or_text()?;
        self.check_flags(&[])?;
        Ok(command)
    }

    fn parse_from(&mut self) -> Parsed<From> {
        let words = split::words(self.text);
        let (image, name) = match words.as_slice() {
            [image] => (image, None),
            [image, middle, name] if middle.eq_ignore_ascii_case("as") => (image, Some(self.stage_name(name)?)),
            _ => return Err(self.expected("IMAGE or IMAGE AS NAME")),
        };
        let flags = self.check_flags(&[("platform", Type::Text)])?;
        Ok(From { platform: flags.text("platform"), image: image.clone(), name })
    }

    /// Lower case. A variable stays as it is until the stages are planned (A.19).
    fn stage_name(&self, name: &str) -> Parsed<String> {
        if super::words::has_variable(name) {
            return Ok(name.to_owned());
        }
        match valid_stage_name(name) {
            Some(name) => Ok(name),
            None => {
                let at = self.at + self.text.len() - name.len();
                let hint = "a letter, then letters, digits and any of _ . -";
                Err(SyntaxError::instr(at, format!("FROM: invalid stage name: {name}")).hint(hint))
            }
        }
    }

    fn parse_run(&mut self) -> Parsed<Run> {
        let command = self.json_or_text()?;
        let flags = self.check_flags(&RUN_FLAGS)?;
        let network = match flags.text("network").as_deref() {
            None => None,
            Some("default") => Some(Network::Default),
            Some("none") => Some(Network::None),
            Some("host") => Some(Network::Host),
            Some(_) => {
                return Err(SyntaxError::instr(flags.at("network"), "RUN: expected --network=default, none or host"));
            }
        };
        let security = match flags.text("security").as_deref() {
            None => None,
            Some("sandbox") => Some(Security::Sandbox),
            Some("insecure") => Some(Security::Insecure),
            Some(_) => {
                return Err(SyntaxError::instr(flags.at("security"), "RUN: expected --security=sandbox or insecure"));
            }
        };
        let mounts = flags.list("mount");
        for text in &mounts {
            mount_flag::check_form(text).map_err(|message| SyntaxError::instr(flags.at("mount"), message))?;
        }
        let heredocs = std::mem::take(&mut self.heredocs);
        Ok(Run { mounts, network, security, devices: flags.list("device"), command, heredocs })
    }

    fn parse_copy(&mut self) -> Parsed<Copy> {
        let list = self.json_or_words()?;
        let flags = self.check_flags(&COPY_FLAGS)?;
        let transfer = self.parse_transfer(list, &flags)?;
        Ok(Copy { from: flags.text("from"), parents: flags.bool("parents").unwrap_or(false), transfer })
    }

    fn parse_add(&mut self) -> Parsed<Add> {
        let list = self.json_or_words()?;
        let flags = self.check_flags(&ADD_FLAGS)?;
        let transfer = self.parse_transfer(list, &flags)?;
        let (keep_git_dir, unpack) = (flags.bool("keep-git-dir"), flags.bool("unpack"));
        Ok(Add { checksum: flags.text("checksum"), keep_git_dir, unpack, transfer })
    }

    fn parse_transfer(&mut self, list: List, flags: &flags::Flags) -> Parsed<Transfer> {
        let json = matches!(list, List::Json(_));
        let (List::Json(mut items) | List::Words(mut items)) = list;
        let destination = items.pop().filter(|_| !items.is_empty());
        let Some(destination) = destination else { return Err(self.expected("SOURCE… DESTINATION")) };
        if heredoc::marker(&destination).is_ok_and(|marker| marker.is_some()) {
            return Err(self.expected("a destination, not a heredoc"));
        }
        let heredocs = std::mem::take(&mut self.heredocs);
        let source = |text: String| {
            let marker = heredoc::marker(&text).ok().flatten();
            let name = marker.filter(|_| !json).map(|marker| marker.name);
            // Of several with one name the last counts.
            match name.and_then(|name| heredocs.iter().rposition(|heredoc| heredoc.name == name)) {
                Some(index) => Source::Heredoc(text, index),
                None => Source::Path(text),
            }
        };
        let sources = items.into_iter().map(source).collect();
        Ok(Transfer {
            sources,
            destination,
            json,
            chown: flags.text("chown"),
            chmod: flags.text("chmod"),
            link: flags.bool("link").unwrap_or(false),
            exclude: flags.list("exclude"),
            heredocs,
        })
    }

    /// ENV, LABEL.
    fn parse_pairs(&mut self) -> Parsed<Pairs> {
        let words = split::quoted_words(self.text, self.escape);
        let pairs = match words.first() {
            Some((first, _)) if !first.contains('=') => match split::split_once(self.text) {
                Some((name, value)) if !value.is_empty() => Pairs::Legacy(name.to_owned(), value.to_owned()),
                _ => return Err(SyntaxError::ast(self.at, format!("{}: expected NAME=VALUE", self.keyword))),
            },
            _ => Pairs::Words(self.parse_pair_words(&words)?),
        };
        self.check_flags(&[])?;
        match &pairs {
            Pairs::Words(list) if list.is_empty() => Err(self.expected("NAME=VALUE")),
            Pairs::Words(list) => match list.iter().position(|(name, _)| name.is_empty()) {
                Some(index) => {
                    let message = format!("{}: expected a name before =", self.keyword);
                    Err(SyntaxError::instr(self.at + words[index].1, message))
                }
                None => Ok(pairs),
            },
            Pairs::Legacy(..) => Ok(pairs),
        }
    }

    fn parse_pair_words(&self, words: &[(&str, usize)]) -> Parsed<Vec<(String, String)>> {
        let pair = |(word, at): &(&str, usize)| match word.split_once('=') {
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => {
                let error = SyntaxError::ast(self.at + at, format!("{}: expected NAME=VALUE", self.keyword));
                Err(error.hint("put a value with blanks in quotes"))
            }
        };
        words.iter().map(pair).collect()
    }

    /// Its flags are dropped unseen (A.18 no. 6).
    fn parse_arg(&mut self) -> Parsed<Vec<Arg>> {
        let words = split::quoted_words(self.text, self.escape);
        if words.is_empty() {
            return Err(self.expected("NAME or NAME=DEFAULT"));
        }
        let arg = |(word, at): &(&str, usize)| match word.split_once('=') {
            Some(("", _)) => Err(SyntaxError::instr(self.at + at, "ARG: expected a name before =")),
            Some((name, default)) => Ok(Arg { name: name.to_owned(), default: Some(default.to_owned()) }),
            None => Ok(Arg { name: (*word).to_owned(), default: None }),
        };
        words.iter().map(arg).collect()
    }

    fn parse_expose(&mut self) -> Parsed<Vec<String>> {
        self.check_flags(&[])?;
        let ports = split::words(self.text);
        if ports.is_empty() { Err(self.expected("PORT[/PROTOCOL]")) } else { Ok(ports) }
    }

    fn parse_volume(&mut self) -> Parsed<List> {
        let mut list = self.json_or_words()?;
        self.check_flags(&[])?;
        if let List::Json(items) = &mut list {
            items.iter_mut().for_each(|item| *item = item.trim().to_owned());
        }
        if list.items().is_empty() || list.items().iter().any(String::is_empty) {
            return Err(self.expected("PATH"));
        }
        Ok(list)
    }

    fn parse_shell(&mut self) -> Parsed<Vec<String>> {
        let command = self.json_or_text()?;
        self.check_flags(&[])?;
        match command {
            Command::Exec(words) if !words.is_empty() => Ok(words),
            _ => Err(self.expected("a JSON array").hint("write SHELL [\"/bin/bash\", \"-c\"], with double quotes")),
        }
    }

    fn parse_healthcheck(&mut self) -> Parsed<Healthcheck> {
        let (kind, rest) = self.text.split_once(is_blank).unwrap_or((self.text, ""));
        let rest = rest.trim_start_matches(is_blank);
        let error = self.expected("NONE or CMD COMMAND");
        let kind_at = self.at;
        self.at += self.text.len() - rest.len();
        self.text = rest;
        let command = self.json_or_text()?;
        match kind.to_ascii_uppercase().as_str() {
            // Its flags are dropped unseen (A.4).
            "NONE" if rest.is_empty() || command == Command::Exec(Vec::new()) => Ok(Healthcheck::None),
            "NONE" => Err(self.expected("nothing after NONE")),
            "CMD" => self.parse_check(command).map(Healthcheck::Check),
            _ => Err(SyntaxError { at: kind_at, ..error }),
        }
    }

    fn parse_check(&mut self, command: Command) -> Parsed<Check> {
        let flags = self.check_flags(&HEALTHCHECK_FLAGS)?;
        if command == Command::Shell(String::new()) || command == Command::Exec(Vec::new()) {
            return Err(self.expected("a command after CMD"));
        }
        let time = |name: &str| match flags.text(name).map(|text| duration::parse(&text)) {
            None => Ok(0),
            Some(Some(time)) if time == 0 || time >= 1_000_000 => Ok(time),
            Some(_) => {
                let message = format!("HEALTHCHECK: expected a duration of at least 1 ms: --{name}=30s");
                Err(SyntaxError::instr(flags.at(name), message))
            }
        };
        let retries = match flags.text("retries").map(|text| text.parse::<i32>()) {
            None => 0,
            Some(Ok(number)) if number >= 0 => i64::from(number),
            Some(_) => {
                return Err(SyntaxError::instr(flags.at("retries"), "HEALTHCHECK: expected a number: --retries=3"));
            }
        };
        Ok(Check {
            interval: time("interval")?,
            timeout: time("timeout")?,
            start_period: time("start-period")?,
            start_interval: time("start-interval")?,
            retries,
            command,
        })
    }

    fn parse_onbuild(&mut self) -> Parsed<Onbuild> {
        let (keyword, rest) = split::split_once(self.text).unwrap_or((self.text, ""));
        let keyword = upper(keyword).into_owned();
        self.check_tree(&keyword, rest)?;
        self.check_flags(&[])?;
        match keyword.as_str() {
            "" => return Err(self.expected("an instruction")),
            "ONBUILD" | "FROM" | "MAINTAINER" => {
                return Err(SyntaxError::instr(self.at, format!("{keyword} is not allowed in ONBUILD")));
            }
            _ => {}
        }
        let mut trigger = self.text.to_owned();
        for heredoc in &self.heredocs {
            trigger += &format!("\n{}{}", heredoc.body, heredoc.name);
        }
        Ok(Onbuild { trigger, keyword })
    }

    /// Of the instruction in an ONBUILD only the tree is checked; another ONBUILD is refused anyway.
    fn check_tree(&self, keyword: &str, rest: &str) -> Parsed<()> {
        if keyword == "ONBUILD" {
            return Ok(());
        }
        let base = self.at + self.text.len() - rest.len();
        let (flags, at) = flags::split(rest, base, self.escape);
        let text = rest[at..].trim_matches(is_blank);
        let at = base + rest.len() - rest[at..].trim_start_matches(is_blank).len();
        let heredocs = Vec::new();
        let mut inner = Parser { keyword, keyword_at: self.at, text, at, flags, escape: self.escape, heredocs };
        match inner.parse_kind() {
            Err(error) if error.level == Level::Ast => Err(error),
            _ => Ok(()),
        }
    }
}

/// In upper case; copied only if it is no keyword.
fn upper(keyword: &str) -> Cow<'static, str> {
    match KEYWORDS.iter().find(|known| known.eq_ignore_ascii_case(keyword)) {
        Some(known) => Cow::Borrowed(known),
        None => Cow::Owned(keyword.to_ascii_uppercase()),
    }
}

/// The name of a stage in lower case, if it may be one: also with `/`, as it is seen in the wild (A.19).
pub fn valid_stage_name(name: &str) -> Option<String> {
    let name = name.to_lowercase();
    let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.' | b'/');
    (name.starts_with(|c: char| c.is_ascii_lowercase()) && name.bytes().all(valid)).then_some(name)
}
