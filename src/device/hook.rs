//! What is a hook of a CDI file for? It is a program, which is never run: known by its words, what it does is done by us.
//!
//! nvidia-ctk writes `nvidia-cdi-hook ACTION OPTION…`, before 1.17 `nvidia-ctk hook ACTION OPTION…`.

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hook {
    /// Libraries in these directories are to be found by the dynamic loader.
    UpdateCache { folders: Vec<String> },
    /// Symbolic links.
    Links(Vec<Link>),
    /// Libraries for programs of a later CUDA than the driver has, if the image brings such.
    CudaCompat { driver: String },
    /// What is given anyway: modes of directories in /dev, which is the host's, and nodes that nobody can make.
    Nothing,
    /// Shown as this.
    Unknown(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Relative to the link's directory, or absolute.
    pub to: String,
    pub path: String,
}

/// What the hook of that program does, whose arguments begin with its own name.
pub fn hook(program: &str, args: &[String]) -> Hook {
    let words: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    let (action, options) = match words.as_slice() {
        ["hook", action, options @ ..] | [action, options @ ..] => (*action, options),
        [] => ("", &[][..]),
    };
    match action {
        "update-ldcache" => {
            Hook::UpdateCache { folders: values(options, "--folder").into_iter().map(str::to_owned).collect() }
        }
        "create-symlinks" => {
            let pairs = values(options, "--link").into_iter().filter_map(|pair| pair.split_once("::"));
            Hook::Links(pairs.map(|(to, path)| Link { to: to.to_owned(), path: path.to_owned() }).collect())
        }
        "enable-cuda-compat" => {
            let driver = values(options, "--host-driver-version").last().copied().unwrap_or_default().to_owned();
            Hook::CudaCompat { driver }
        }
        "chmod" | "disable-device-node-modification" => Hook::Nothing,
        _ => Hook::Unknown([program, action].join(" ").trim_end().to_owned()),
    }
}

/// Of `--name VALUE` and `--name=VALUE`.
fn values<'a>(options: &[&'a str], name: &str) -> Vec<&'a str> {
    let mut values = Vec::new();
    let mut words = options.iter();
    while let Some(word) = words.next() {
        if *word == name {
            values.extend(words.next());
        } else if let Some(value) = word.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')) {
            values.push(value);
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions() {
        let check = |line: &str, want: Hook| {
            let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            assert_eq!(hook("/usr/bin/x", &args), want, "{line}");
        };
        let cache = |folders: &[&str]| Hook::UpdateCache { folders: folders.iter().map(|f| (*f).to_owned()).collect() };
        let links = |pairs: &[(&str, &str)]| {
            Hook::Links(pairs.iter().map(|(to, path)| Link { to: (*to).into(), path: (*path).into() }).collect())
        };
        check("nvidia-cdi-hook update-ldcache --folder /a --folder=/b --other /c", cache(&["/a", "/b"]));
        check("nvidia-ctk hook update-ldcache --folder /a", cache(&["/a"]));
        check("nvidia-cdi-hook update-ldcache --folder", cache(&[]));
        check("x create-symlinks --link a.1::/l/a --link=../b::/l/b", links(&[("a.1", "/l/a"), ("../b", "/l/b")]));
        check("x create-symlinks --link nonsense", links(&[]));
        check("x chmod --mode 755 --path /dev/dri", Hook::Nothing);
        check("x disable-device-node-modification", Hook::Nothing);
        check("x enable-cuda-compat --host-driver-version=570.1", Hook::CudaCompat { driver: "570.1".into() });
        check("x enable-cuda-compat", Hook::CudaCompat { driver: String::new() });
        check("x format-disk --all", Hook::Unknown("/usr/bin/x format-disk".into()));
        check("x", Hook::Unknown("/usr/bin/x".into()));
        check("", Hook::Unknown("/usr/bin/x".into()));
    }
}
