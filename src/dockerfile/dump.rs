//! A tree as s-expressions, for `build --parse-only -v` and for tests: one instruction a line.

use super::ast::{
    Check, Command, Dockerfile, Healthcheck, Heredoc, Instruction, Kind, List, Network, Pairs, Security, Source, Stage,
    Transfer,
};

/// The whole tree.
pub fn dump(file: &Dockerfile) -> String {
    let mut text = String::from("(dockerfile");
    if file.escape != '\\' {
        text += &format!("\n  {}", call("escape", [quote(&file.escape.to_string())]));
    }
    for global in &file.globals {
        text += &format!("\n  {}", instruction(global));
    }
    for stage in &file.stages {
        text += &format!("\n  (stage {}", from(stage));
        for inner in &stage.instructions {
            text += &format!("\n    {}", instruction(inner));
        }
        text.push(')');
    }
    text + ")\n"
}

/// One instruction.
pub fn instruction(instruction: &Instruction) -> String {
    let name = instruction.keyword().to_ascii_lowercase();
    let quoted = |items: &[String]| items.iter().map(|item| quote(item)).collect::<Vec<_>>();
    let parts = match &instruction.kind {
        Kind::Add(add) => {
            let mut parts = option("checksum", &add.checksum);
            parts.extend(switch("keep-git-dir", add.keep_git_dir));
            parts.extend(switch("unpack", add.unpack));
            parts.extend(transfer(&add.transfer));
            parts
        }
        Kind::Arg(args) => {
            let arg = |arg: &super::ast::Arg| match &arg.default {
                Some(default) => format!("({} {})", quote(&arg.name), quote(default)),
                None => format!("({})", quote(&arg.name)),
            };
            args.iter().map(arg).collect()
        }
        Kind::Cmd(command) | Kind::Entrypoint(command) => vec![self::command(command)],
        Kind::Copy(copy) => {
            let mut parts = option("from", &copy.from);
            parts.extend(copy.parents.then(|| "(parents)".to_owned()));
            parts.extend(transfer(&copy.transfer));
            parts
        }
        Kind::Env(pairs) | Kind::Label(pairs) => self::pairs(pairs),
        Kind::Expose(items) => quoted(items),
        Kind::Healthcheck(Healthcheck::None) => vec!["none".to_owned()],
        Kind::Healthcheck(Healthcheck::Check(check)) => self::check(check),
        Kind::Maintainer(text) | Kind::Stopsignal(text) | Kind::User(text) | Kind::Workdir(text) => vec![quote(text)],
        Kind::Onbuild(onbuild) => vec![quote(&onbuild.trigger)],
        Kind::Run(run) => {
            let mut parts: Vec<String> = run.mounts.iter().map(|text| call("mount", [quote(text)])).collect();
            parts.extend(run.network.map(|network| {
                let name = match network {
                    Network::Default => "default",
                    Network::None => "none",
                    Network::Host => "host",
                };
                call("network", [name.to_owned()])
            }));
            parts.extend(run.security.map(|security| {
                let name = match security {
                    Security::Sandbox => "sandbox",
                    Security::Insecure => "insecure",
                };
                call("security", [name.to_owned()])
            }));
            parts.extend(run.devices.iter().map(|text| call("device", [quote(text)])));
            parts.push(self::command(&run.command));
            parts.extend(run.heredocs.iter().map(heredoc));
            parts
        }
        Kind::Shell(words) => quoted(words),
        Kind::Volume(List::Json(items) | List::Words(items)) => quoted(items),
    };
    call(&name, parts)
}

fn call(name: &str, parts: impl IntoIterator<Item = String>) -> String {
    let parts: Vec<String> = std::iter::once(name.to_owned()).chain(parts).collect();
    format!("({})", parts.join(" "))
}

fn from(stage: &Stage) -> String {
    let mut parts = option("platform", &stage.from.platform);
    parts.push(quote(&stage.from.image));
    parts.extend(option("as", &stage.from.name));
    call("from", parts)
}

fn option(name: &str, value: &Option<String>) -> Vec<String> {
    value.iter().map(|value| call(name, [quote(value)])).collect()
}

fn switch(name: &str, value: Option<bool>) -> Option<String> {
    value.map(|value| call(name, [value.to_string()]))
}

fn command(command: &Command) -> String {
    match command {
        Command::Shell(text) => quote(text),
        Command::Exec(words) => call("exec", words.iter().map(|word| quote(word))),
    }
}

fn pairs(pairs: &Pairs) -> Vec<String> {
    pairs.iter().map(|(name, value)| format!("({} {})", quote(name), quote(value))).collect()
}

fn heredoc(heredoc: &Heredoc) -> String {
    let mut parts = vec![quote(&heredoc.name)];
    parts.extend(heredoc.quoted.then(|| "quoted".to_owned()));
    parts.extend(heredoc.strip_tabs.then(|| "strip-tabs".to_owned()));
    parts.push(quote(&heredoc.body));
    call("heredoc", parts)
}

fn transfer(transfer: &Transfer) -> Vec<String> {
    let mut parts = option("chown", &transfer.chown);
    parts.extend(option("chmod", &transfer.chmod));
    parts.extend(transfer.link.then(|| "(link)".to_owned()));
    parts.extend(transfer.exclude.iter().map(|text| call("exclude", [quote(text)])));
    parts.extend(transfer.sources.iter().map(|source| match source {
        Source::Path(path) => quote(path),
        Source::Heredoc(_, index) => transfer.heredocs.get(*index).map(heredoc).unwrap_or_default(),
    }));
    parts.push(quote(&transfer.destination));
    parts
}

fn check(check: &Check) -> Vec<String> {
    let options = check.options().into_iter();
    let mut parts: Vec<String> = options.map(|(name, value)| call(name, [value])).collect();
    parts.push(command(&check.command));
    parts
}

/// In double quotes, with everything escaped that does not show.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' | '\n' | '\r' | '\t' => quoted.extend(c.escape_default()),
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                quoted.extend(c.escape_unicode())
            }
            c if c.is_control() => quoted.extend(c.escape_unicode()),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}
