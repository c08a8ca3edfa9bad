//! Source text → tree or faults: directives, logical lines, and what may stand where (A.2, A.3, A.11).
//!
//! Reading goes on after a fault, so that all of them are found at once; only a heredoc without an end stops it. Faults
//! of the tree (`ast`) and of an instruction (`instr`) are told apart, because other builders report all of the first
//! before any of the second.

use super::ast::{Command, Dockerfile, From, Instruction, Kind, List, Run, Source, Stage, Transfer, Warning};
use super::diagnostic::{Diagnostic, Level, SyntaxError, excerpt};
use super::heredoc;
use super::instruction::Statement;
use super::lines::{self, Lines, Logical, MAX_SOURCE, is_blank};

/// Reading stops after so many faults.
const MAX_FAULTS: usize = 1000;

/// Reads a Dockerfile. The faults are in the order of the file.
pub fn parse(bytes: &[u8]) -> Result<Dockerfile, Vec<Diagnostic>> {
    if bytes.len() > MAX_SOURCE {
        return Err(vec![fileless(format!("Dockerfile larger than {MAX_SOURCE} bytes"))]);
    }
    let source = lines::Source::new(bytes);
    let mut file = File { source: &source, diagnostics: Vec::new() };
    let escape = file.parse_directives();
    file.parse_instructions(escape)
}

/// Reads a trigger of ONBUILD as an image configuration stores it: one instruction.
pub fn parse_trigger(text: &str) -> Result<Instruction, Vec<Diagnostic>> {
    if text.len() > MAX_SOURCE {
        return Err(vec![fileless(format!("ONBUILD trigger larger than {MAX_SOURCE} bytes"))]);
    }
    let source = lines::Source::new(text.as_bytes());
    let file = File { source: &source, diagnostics: Vec::new() };
    let mut lines = Lines::new(&source, '\\');
    let Some(mut logical) = lines.next_logical() else { return Err(vec![fileless("empty ONBUILD trigger")]) };
    match Statement::parse(&logical, &mut lines, '\\') {
        Ok((Statement::Instruction(Kind::Onbuild(_)), _)) => {
            Err(vec![file.diagnostic(&logical, SyntaxError::instr(0, "ONBUILD is not allowed in ONBUILD"))])
        }
        Ok((Statement::Instruction(kind), _)) => {
            let trigger = instruction(&mut logical, &lines, kind);
            match lines.next_logical() {
                None => Ok(trigger),
                Some(next) => {
                    Err(vec![file.diagnostic(&next, SyntaxError::instr(0, "expected only one instruction in ONBUILD"))])
                }
            }
        }
        Ok((Statement::From(_), _)) => {
            Err(vec![file.diagnostic(&logical, SyntaxError::instr(0, "FROM is not allowed in ONBUILD"))])
        }
        Err(error) => Err(vec![file.diagnostic(&logical, error)]),
    }
}

/// About the file as a whole.
fn fileless(message: impl Into<String>) -> Diagnostic {
    Diagnostic {
        level: Level::Ast,
        line: 1,
        col: 1,
        offset: 0,
        message: message.into(),
        hint: None,
        excerpt: String::new(),
    }
}

fn instruction(logical: &mut Logical, lines: &Lines, kind: Kind) -> Instruction {
    let end = logical.span.end.max(lines.taken_to());
    Instruction { line: logical.line + 1, span: logical.span.start..end, text: take_text(logical), kind }
}

/// The logical line, trimmed; copied only if there is something to trim.
fn take_text(logical: &mut Logical) -> String {
    match logical.text.trim().len() == logical.text.len() {
        true => std::mem::take(&mut logical.text),
        false => logical.text.trim().to_owned(),
    }
}

struct File<'a> {
    source: &'a lines::Source,
    diagnostics: Vec<Diagnostic>,
}

impl File<'_> {
    fn diagnostic(&self, logical: &Logical, error: SyntaxError) -> Diagnostic {
        self.diagnostic_at(logical.source_at(error.at), error)
    }

    fn diagnostic_at(&self, offset: usize, SyntaxError { level, message, hint, .. }: SyntaxError) -> Diagnostic {
        let (line, col) = self.source.position(offset);
        let excerpt = excerpt(line + 1, self.source.line(line), col + 1);
        Diagnostic { level, line: line + 1, col: col + 1, offset, message, hint, excerpt }
    }

    /// The comments at the top that mean something (A.2); returns the escape character.
    fn parse_directives(&mut self) -> char {
        let mut escape = '\\';
        let mut seen: Vec<String> = Vec::new();
        let mut offset = 0;
        for line in self.source.text().split_inclusive('\n') {
            let text = line.trim_end_matches(['\r', '\n']);
            let Some((name, value)) = directive(text) else { break };
            let at = offset + text.len() - value.len();
            if seen.contains(&name) {
                self.diagnostics
                    .push(self.diagnostic_at(offset, SyntaxError::ast(0, format!("repeated directive: {name}"))));
            } else if name == "escape" {
                match value.trim_end_matches(is_blank) {
                    "\\" => {}
                    "`" => escape = '`',
                    _ => self
                        .diagnostics
                        .push(self.diagnostic_at(at, SyntaxError::ast(0, "expected escape=\\ or escape=`"))),
                }
            }
            seen.push(name);
            offset += line.len();
        }
        escape
    }

    fn parse_instructions(mut self, escape: char) -> Result<Dockerfile, Vec<Diagnostic>> {
        let mut file = Dockerfile { escape, globals: Vec::new(), stages: Vec::new(), warnings: Vec::new() };
        let mut lines = Lines::new(self.source, escape);
        // Whether the missing FROM was reported, and what to say of an unknown instruction after the line before.
        let (mut complained, mut empty, mut advice) = (false, true, Advice::None);
        while let Some(mut logical) = lines.next_logical() {
            empty = false;
            if let Some(line) = logical.empty_line {
                let message = "empty line inside a continued instruction".to_owned();
                file.warnings.push(Warning { line: line + 1, message });
            }
            let parsed = Statement::parse(&logical, &mut lines, escape);
            let next_advice = parsed.as_ref().map_or(Advice::None, |(said, _)| Advice::after(said, &logical.text));
            match parsed {
                Ok((Statement::From(from), _)) => {
                    // A damaged FROM still begins a stage.
                    let from = from.unwrap_or_else(|error| {
                        self.add(&logical, error);
                        From { platform: None, image: String::new(), name: None }
                    });
                    let (line, text) = (logical.line + 1, take_text(&mut logical));
                    file.stages.push(Stage { from, line, text, span: logical.span.clone(), instructions: Vec::new() });
                }
                Ok((Statement::Instruction(kind), at)) => {
                    if is_broken_array(&kind) {
                        let message = format!(
                            "{}: not a valid JSON array (use double quotes); treated as shell form",
                            kind.keyword()
                        );
                        file.warnings.push(Warning { line: logical.line + 1, message });
                    }
                    let global = matches!(kind, Kind::Arg(_));
                    let instruction = instruction(&mut logical, &lines, kind);
                    match file.stages.last_mut() {
                        Some(stage) => stage.instructions.push(instruction),
                        None if global => file.globals.push(instruction),
                        None if complained => {}
                        None => {
                            complained = true;
                            self.add(&logical, SyntaxError::instr(at, "first instruction must be ARG or FROM"));
                        }
                    }
                }
                Err(mut error) => {
                    if error.message.starts_with("unterminated") {
                        lines.stop();
                    }
                    if error.message.starts_with("unknown instruction") {
                        error.hint = advice.advise(error.hint, escape);
                    }
                    complained = true;
                    self.add(&logical, error);
                }
            }
            advice = next_advice;
            if self.diagnostics.len() >= MAX_FAULTS {
                break;
            }
        }
        if empty && self.diagnostics.is_empty() {
            self.diagnostics.push(fileless("no instructions found"));
        }
        if self.diagnostics.is_empty() { Ok(file) } else { Err(self.diagnostics) }
    }

    fn add(&mut self, logical: &Logical, error: SyntaxError) {
        let diagnostic = self.diagnostic(logical, error);
        self.diagnostics.push(diagnostic);
    }
}

/// What was probably meant, if the next line is no instruction.
enum Advice {
    None,
    ContinueRun,
    /// The word of a heredoc that is none because of a blank.
    JoinWord(String),
}

impl Advice {
    fn after(said: &Statement, line: &str) -> Advice {
        match said {
            Statement::Instruction(Kind::Run(_) | Kind::Copy(_) | Kind::Add(_)) => {}
            Statement::Instruction(_) | Statement::From(_) => return Advice::None,
        }
        match (heredoc::spaced_word(line), said) {
            (Some(word), _) => Advice::JoinWord(word.to_owned()),
            (None, Statement::Instruction(Kind::Run(_))) => Advice::ContinueRun,
            (None, _) => Advice::None,
        }
    }

    /// The hint for an unknown instruction that has this one already, if any.
    fn advise(self, hint: Option<String>, escape: char) -> Option<String> {
        match self {
            Advice::None => hint,
            Advice::ContinueRun => {
                hint.or_else(|| Some(format!("to continue the RUN above, end its last line with {escape}")))
            }
            // Any word may be near to a keyword; that one is part of a text is far likelier.
            Advice::JoinWord(word) => Some(format!(
                "no blank may stand between <<- and the word of a heredoc: write <<-{word} in the line above"
            )),
        }
    }
}

/// Whether arguments look as if they were meant as JSON, but are not. No shell command begins like this: `[` and a
/// blank would.
fn is_broken_array(kind: &Kind) -> bool {
    fn source(transfer: &Transfer) -> &str {
        match transfer.sources.first() {
            Some(Source::Path(text)) if !transfer.json => text,
            _ => "",
        }
    }
    let first = match kind {
        Kind::Run(Run { command: Command::Shell(text), .. })
        | Kind::Cmd(Command::Shell(text))
        | Kind::Entrypoint(Command::Shell(text)) => text,
        Kind::Copy(copy) => source(&copy.transfer),
        Kind::Add(add) => source(&add.transfer),
        Kind::Volume(List::Words(words)) => words.first().map_or("", String::as_str),
        _ => "",
    };
    first.starts_with("[\"") || first.starts_with("['")
}

/// `# NAME = VALUE` with a known name, in lower case; the value still has the blanks after it.
fn directive(line: &str) -> Option<(String, &str)> {
    let text = line.trim_start_matches(is_blank).strip_prefix('#')?.trim_start_matches(is_blank);
    let end = text.find(|c: char| !c.is_ascii_alphanumeric())?;
    let value = text[end..].trim_start_matches(is_blank).strip_prefix('=')?.trim_start_matches(is_blank);
    let name = text[..end].to_ascii_lowercase();
    (matches!(name.as_str(), "syntax" | "escape" | "check") && !value.is_empty()).then_some((name, value))
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
