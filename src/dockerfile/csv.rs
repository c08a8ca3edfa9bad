//! One record of comma-separated values with the quoting of Go's reader, as `--mount` is written (A.14).

/// Splits `a,"b,c",d`. Quotes stand around a whole field; two inside are one.
pub fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => read_quoted(quoted)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                if rest[..end].contains('"') {
                    return Err(format!("expected quotes around the whole of {:?}", &rest[..end]));
                }
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(fields),
            None => return Err("expected a comma after the closing quote".to_owned()),
        }
    }
}

/// After an opening quote; returns the field and what follows its closing quote.
fn read_quoted(text: &str) -> Result<(String, &str), String> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let end = rest.find('"').ok_or("expected a closing quote")?;
        field += &rest[..end];
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                field.push('"');
                rest = after;
            }
            None => return Ok((field, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn records() {
        let check = |text: &str, want: Option<&[&str]>| match (super::fields(text), want) {
            (Ok(got), Some(want)) => assert_eq!(got, want, "{text}"),
            (Err(_), None) => {}
            (got, want) => panic!("{text}: {got:?} {want:?}"),
        };
        check("", Some(&[""]));
        check("a", Some(&["a"]));
        check("a=1,b", Some(&["a=1", "b"]));
        check("a,,b,", Some(&["a", "", "b", ""]));
        check("\"a,b\",c", Some(&["a,b", "c"]));
        check("\"a\"\"b\"", Some(&["a\"b"]));
        check("\"\"", Some(&[""]));
        check("a\"b", None);
        check("\"a", None);
        check("\"a\"b", None);
        check("a=\"b,c\"", None);
    }
}
