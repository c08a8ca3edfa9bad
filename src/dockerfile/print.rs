//! A tree as a Dockerfile again: what is printed parses to the same tree.
//!
//! For tests alone: every file that parses must survive it. Comments, continuations and spacing are not kept.

use std::fmt::Write as _;

use super::ast::{
    Command, Dockerfile, Healthcheck, Heredoc, Instruction, Kind, List, Network, Pairs, Security, Source, Stage,
    Transfer,
};

pub fn print(file: &Dockerfile) -> String {
    let printer = Printer { escape: file.escape };
    let mut text = String::new();
    if file.escape != '\\' {
        let _ = writeln!(text, "# escape={}", file.escape);
    }
    for global in &file.globals {
        text += &printer.instruction(global);
    }
    for stage in &file.stages {
        text += &printer.from(stage);
        for instruction in &stage.instructions {
            text += &printer.instruction(instruction);
        }
    }
    text
}

struct Printer {
    escape: char,
}

impl Printer {
    fn from(&self, stage: &Stage) -> String {
        let flags = option("platform", &stage.from.platform);
        let name = stage.from.name.as_ref().map(|name| format!(" AS {name}")).unwrap_or_default();
        self.line("FROM", flags, &format!("{}{name}", stage.from.image), &[])
    }

    fn instruction(&self, instruction: &Instruction) -> String {
        let (mut flags, mut heredocs): (Vec<String>, &[Heredoc]) = (Vec::new(), &[]);
        let arguments = match &instruction.kind {
            Kind::Add(add) => {
                flags.extend(option("checksum", &add.checksum));
                flags.extend(add.keep_git_dir.map(|value| format!("--keep-git-dir={value}")));
                flags.extend(add.unpack.map(|value| format!("--unpack={value}")));
                heredocs = &add.transfer.heredocs;
                transfer(&add.transfer, &mut flags)
            }
            Kind::Arg(args) => {
                let arg = |arg: &super::ast::Arg| match &arg.default {
                    Some(default) => format!("{}={default}", arg.name),
                    None => arg.name.clone(),
                };
                args.iter().map(arg).collect::<Vec<_>>().join(" ")
            }
            Kind::Cmd(command) | Kind::Entrypoint(command) => self::command(command),
            Kind::Copy(copy) => {
                flags.extend(option("from", &copy.from));
                flags.extend(copy.parents.then(|| "--parents".to_owned()));
                heredocs = &copy.transfer.heredocs;
                transfer(&copy.transfer, &mut flags)
            }
            Kind::Env(pairs) | Kind::Label(pairs) => match pairs {
                Pairs::Legacy(name, value) => format!("{name} {value}"),
                Pairs::Words(words) => {
                    words.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
                }
            },
            Kind::Expose(items) => items.join(" "),
            Kind::Healthcheck(Healthcheck::None) => "NONE".to_owned(),
            Kind::Healthcheck(Healthcheck::Check(check)) => {
                flags.extend(check.options().into_iter().map(|(name, value)| format!("--{name}={value}")));
                format!("CMD {}", command(&check.command))
            }
            Kind::Maintainer(text) | Kind::Stopsignal(text) | Kind::User(text) | Kind::Workdir(text) => text.clone(),
            Kind::Onbuild(onbuild) => onbuild.trigger.clone(),
            Kind::Run(run) => {
                flags.extend(run.mounts.iter().map(|text| format!("--mount={text}")));
                flags.extend(run.network.map(|network| match network {
                    Network::Default => "--network=default".to_owned(),
                    Network::None => "--network=none".to_owned(),
                    Network::Host => "--network=host".to_owned(),
                }));
                flags.extend(run.security.map(|security| match security {
                    Security::Sandbox => "--security=sandbox".to_owned(),
                    Security::Insecure => "--security=insecure".to_owned(),
                }));
                flags.extend(run.devices.iter().map(|text| format!("--device={text}")));
                heredocs = &run.heredocs;
                command(&run.command)
            }
            Kind::Shell(words) => array(words),
            Kind::Volume(List::Json(items)) => array(items),
            Kind::Volume(List::Words(items)) => items.join(" "),
        };
        self.line(instruction.keyword(), flags, &arguments, heredocs)
    }

    fn line(&self, keyword: &str, flags: Vec<String>, arguments: &str, heredocs: &[Heredoc]) -> String {
        let mut text = keyword.to_owned();
        for flag in flags {
            text.push(' ');
            text.extend(flag.chars().flat_map(|c| self.escaped(c)));
        }
        if arguments.starts_with("--") {
            text += " --";
        }
        if !arguments.is_empty() {
            text.push(' ');
            text += arguments;
        }
        // A trigger brings the bodies of its heredocs in its text.
        if let Some(before) = text.strip_suffix(self.escape)
            && !before.ends_with(self.escape)
        {
            // Trimmed when read, but no continuation.
            text.push('\u{a0}');
        }
        for heredoc in heredocs {
            let _ = write!(text, "\n{}{}", heredoc.body, heredoc.name);
        }
        text.push('\n');
        text
    }

    /// In a flag.
    fn escaped(&self, c: char) -> impl Iterator<Item = char> {
        let special = c.is_ascii_whitespace() || matches!(c, '\u{b}' | '\'' | '"') || c == self.escape;
        special.then_some(self.escape).into_iter().chain([c])
    }
}

fn option(name: &str, value: &Option<String>) -> Vec<String> {
    value.iter().map(|value| format!("--{name}={value}")).collect()
}

fn command(command: &Command) -> String {
    match command {
        Command::Shell(text) => text.clone(),
        Command::Exec(words) => array(words),
    }
}

fn transfer(transfer: &Transfer, flags: &mut Vec<String>) -> String {
    flags.extend(option("chown", &transfer.chown));
    flags.extend(option("chmod", &transfer.chmod));
    flags.extend(transfer.link.then(|| "--link".to_owned()));
    flags.extend(transfer.exclude.iter().map(|text| format!("--exclude={text}")));
    let source = |source: &Source| match source {
        Source::Path(text) | Source::Heredoc(text, _) => text.clone(),
    };
    let items: Vec<String> = transfer.sources.iter().map(source).chain([transfer.destination.clone()]).collect();
    if transfer.json { array(&items) } else { items.join(" ") }
}

/// Writes an array of strings so that `json::array` reads it again.
pub fn array(strings: &[String]) -> String {
    let mut text = String::from("[");
    for (index, string) in strings.iter().enumerate() {
        text += if index > 0 { ", \"" } else { "\"" };
        for c in string.chars() {
            match c {
                '"' | '\\' => text.extend(['\\', c]),
                '\n' => text += "\\n",
                '\t' => text += "\\t",
                '\r' => text += "\\r",
                c if c < ' ' => text += &format!("\\u{:04x}", c as u32),
                c => text.push(c),
            }
        }
        text.push('"');
    }
    text + "]"
}
