use super::*;
use crate::dockerfile::expansion::MAX_DEPTH;

fn env(name: &str) -> Option<String> {
    let value = match name {
        "A" => "1",
        "E" => "",
        "P" => "/usr/lib/x.tar.gz",
        "S" => "a b  c",
        "Q" => "'q\"",
        "W" => "foo foo",
        "N" => "ab\ncd",
        "GRÜN" => "green",
        "STAR" => "a*b?c\\d/e}f",
        "BIG" => return Some("x".repeat(MAX_RESULT)),
        _ => return None,
    };
    Some(value.to_owned())
}

#[test]
fn one_word() {
    let check = |text: &str, want: &str| match expand(text, '\\', &env) {
        Ok(got) => assert_eq!(got, want, "{text}"),
        Err(e) => assert_eq!("error", want, "{text}: {e:?}"),
    };
    check("", "");
    check("plain text  kept", "plain text  kept");
    check("$A", "1");
    check("${A}b", "1b");
    check("$Ab", "");
    check("$A.b$", "1.b$");
    check("$", "$");
    check("$$", "");
    check("$ A", "$ A");
    check("$1$12a$0", "a");
    check("$@$*$#$?$-$!x", "x");
    check("$GRÜN", "green");
    check("$(cmd)", "$(cmd)");
    check("'$A'", "$A");
    check("'a\\'b", "a\\b");
    check("'a", "error");
    check("\"$A\"", "1");
    check("\"\\$A \\\" \\\\ \\n\"", "$A \" \\ \\n");
    check("\"a", "error");
    check("\"a\\\"", "error");
    check("\\$A\\ \\a\\\\", "$A a\\");
    check("a\\", "a");
    check("\"$Q\"", "'q\"");
    check("$Q", "'q\"");
    check("${", "error");
    check("${}", "error");
    check("${{A}", "error");
    check("${:A}", "error");
    check("${A", "error");
    check("${A:", "error");
    check("${A:-", "error");
    check("${A.}", "error");
    check("${A b}", "error");
    check("${A:=b}", "error");
    check("${A=b}", "error");
    check("${A:#b}", "error");
    check("${A:%b}", "error");
    check("${A-w}${X-w}${E-w}", "1w");
    check("${A:-w}${X:-w}${E:-w}", "1ww");
    check("${A+w}${X+w}${E+w}", "ww");
    check("${A:+w}${X:+w}${E:+w}", "w");
    check("${A?w}${A:?w}${E?w}", "11");
    check("${X?w}", "error");
    check("${E:?w}", "error");
    check("${X:-$A}", "1");
    check("${X:-${Y:-${A}z}}", "1z");
    check("${X:-'}'}", "}");
    check("${X:-\"}\"}", "}");
    check("${X:-\\}}", "}");
    check("${X:-a b}", "a b");
    check("${X:-${A}", "error");
    check("\"${X:-'}'}\"", "}");
    check("${P#*/}", "usr/lib/x.tar.gz");
    check("${P##*/}", "x.tar.gz");
    check("${P%.*}", "/usr/lib/x.tar");
    check("${P%%.*}", "/usr/lib/x");
    check("${P%/*}", "/usr/lib");
    check("${P%%/*}", "");
    check("${P#}${P%}", "/usr/lib/x.tar.gz/usr/lib/x.tar.gz");
    check("${P#/usr/???/}", "x.tar.gz");
    check("${P##/*/*/}", "x.tar.gz");
    check("${P#nothing}", "/usr/lib/x.tar.gz");
    check("${P%%*}", "");
    check("${X#a}${X%a}${X/a/b}", "");
    check("${STAR#a\\*}", "b?c\\d/e}f");
    check("${STAR%\\?*}", "a*b");
    check("${STAR##*\\\\}", "d/e}f");
    check("${STAR%\\}f}", "a*b?c\\d/e");
    check("${STAR#\\a}", "error");
    check("${STAR#'a'*}", "*b?c\\d/e}f");
    check("${W/o/0}", "f0o foo");
    check("${W//o/0}", "f00 f00");
    check("${W/o*/0}", "f0");
    check("${W//f??/[]}", "[] []");
    check("${W//[f]/x}", "foo foo");
    check("${W/foo/}", " foo");
    check("${W//foo}", " ");
    check("${W/foo}", " foo");
    check("${W/}", "foo foo");
    check("${W//x/y}", "foo foo");
    check("${W/ /}", "foofoo");
    check("${W//o/$A}", "f11 f11");
    check("${W/$X/-}", "-foo foo");
    check("${A///-}", "-1-");
    check("${STAR/\\//|}", "a*b?c\\d|e}f");
    check("${STAR/\\}/|}", "a*b?c\\d/e|f");
    check("${W/#foo/x}", "x foo");
    check("${W/%foo/x}", "foo x");
    check("${W/#o/x}", "foo foo");
    check("${W/foo/$1}", " foo");
    check("${W//*/x}", "x");
    check("${W/foo}/x", " foo/x");
    check("${W/foo}/${A}", " foo/1");
    check("${W//o}/$A", "f f/1");
    check("${X/*/y}${E/*/y}${X//*/y}", "yyy");
    check("${X#\\a}", "error");
    check("${X/\\a/b}", "error");
    check("${X%a\\}", "error");
    check("$A²$²", "1²$²");
    check("${N#*}${N##*}${N%%*}", "ab\ncd\ncdab\n");
    check("${N/b?c/x}", "ab\ncd");
    check("${N/b\nc/x}", "axd");
    check("${+x}${-}${?}", "");
    check("$<<x", "$<<x");
    check("a\u{a0}$A", "a\u{a0}1");
    check("\\", "");
    check("é\\é'é'\"é\"", "éééé");
}

#[test]
fn back_tick_escapes() {
    let check = |text: &str, want: &str| assert_eq!(expand(text, '`', &env).unwrap(), want, "{text}");
    check("C:\\dir\\$A", "C:\\dir\\1");
    check("`$A``", "$A`");
    check("\"`$A `\" \\\"", "$A \" \\");
}

#[test]
fn word_lists() {
    let check = |text: &str, want: &[&str]| assert_eq!(expand_words(text, '\\', &env).unwrap(), want, "{text}");
    check("", &[]);
    check("  ", &[]);
    check("a  b", &["a", "b"]);
    check("$S", &["a", "b", "c"]);
    check("x$S", &["xa", "b", "c"]);
    check("\"$S\"", &["a b  c"]);
    check("'a b'c\\ d", &["a bc d"]);
    check("80${X:-80}", &["8080"]);
    check("${X:-80 90}", &["80", "90"]);
    check("$X \"\" ''", &[]);
    check("a\"\"b", &["ab"]);
}

#[test]
fn heredoc_words() {
    let check = |text: &str, want: &[&str]| assert_eq!(raw_words(text).unwrap(), want, "{text}");
    check("cat <<EOF > x", &["cat", "<<EOF", ">", "x"]);
    check("cat <<  EOF", &["cat", "<<  EOF"]);
    check("a\"b c\"<<'x y'", &["a\"b c\"<<'x y'"]);
    check("$X ${X} ${X:-a b} ${X#y}", &["$X", "${X}", "${X:-a", "b}", "${X#y}"]);
    check("\\<<X \\\\", &["\\<<X", "\\\\"]);
    check("$((1<<2)) <<<X", &["$((1<<2))", "<<<X"]);
    assert!(raw_words("it's <<X").is_err());
    assert_eq!(plain_words("'a b'c\\d $X").unwrap(), ["a bcd", "$X"]);
}

#[test]
fn heredoc_bodies() {
    let check = |text: &str, want: &str| assert_eq!(expand_body(text, &env).unwrap(), want, "{text}");
    check("it's $A \"${A}\"\n", "it's 1 \"1\"\n");
    check("\\$A \\n \\\\ \\\n", "$A n \\ \n");
    check("'${X:-\"}'\n", "'\"'\n");
    assert!(expand_body("${", &env).is_err());
}

#[test]
fn exec_elements() {
    let check = |text: &str, want: &str| assert_eq!(expand_known(text, &env).unwrap(), want, "{text}");
    check("", "");
    check("a$A.${A}", "a1.1");
    check("\"$A\" '$A' \\$A \\\\$A", "\"1\" '1' \\$A \\\\1");
    check(
        "for i in 1; do echo $i ${i:-x}; done; $(date) ${#a[@]} $",
        "for i in 1; do echo $i ${i:-x}; done; $(date) ${#a[@]} $",
    );
    check("${A:-x}${E:-y}${A:=x}${A", "1y${A:=x}${A");
    check("$1$?$$", "$1$?$$");
    check("é$A\\é", "é1\\é");
    check("x\\", "x\\");
}

#[test]
fn limits() {
    let nested = |n: usize| format!("{}x{}", "${X:-".repeat(n), "}".repeat(n));
    assert_eq!(expand(&nested(MAX_DEPTH), '\\', &env).unwrap(), "x");
    assert!(expand(&nested(MAX_DEPTH + 1), '\\', &env).unwrap_err().message.contains("64 deep"));
    assert!(expand(&nested(1_000_000), '\\', &env).is_err());
    assert!(expand(&"${W/".repeat(MAX_DEPTH), '\\', &env).is_err());
    assert!(expand(&"${W//a/".repeat(MAX_DEPTH), '\\', &env).is_err());
    assert!(expand("$BIG", '\\', &env).is_ok());
    assert!(expand("$BIG$BIG", '\\', &env).unwrap_err().message.contains("longer than"));
    assert!(expand("x$BIG", '\\', &env).is_err());
    assert!(expand_body("$BIG$A", &env).is_err());
    assert!(expand_known("$BIG$A", &env).is_err());
    assert!(expand(&"${A:-$BIG}".repeat(100), '\\', &env).unwrap_err().message.contains("work"));
    assert!(expand(&"$A".repeat(MAX_RESULT), '\\', &env).is_ok());
    assert!(expand("${BIG//x/yy}", '\\', &env).is_err());
    assert!(expand("${BIG//?*?y/}", '\\', &env).unwrap_err().message.contains("too long to match"));
}
