//! The subcommands of `ch-image`, as data: what help, manual page and completions say of each.

/// A subcommand without its operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sub {
    Build,
    Delete,
    Doctor,
    Export,
    Fsck,
    Gc,
    Help,
    History,
    Import,
    Inspect,
    List,
    Load,
    Pull,
    Push,
    Rename,
    Reset,
    Run,
    Save,
    Shell,
    StoragePath,
    Tag,
    Version,
}

/// What is said of a subcommand.
pub(crate) struct Subcommand {
    pub kind: Sub,
    pub name: &'static str,
    /// Other names, which mean the same.
    pub also: &'static [&'static str],
    pub operands: &'static str,
    /// One line.
    pub help: &'static str,
    /// What it prints and changes, in a few sentences.
    pub about: &'static str,
    /// Command lines, without `ch-image`, and what they do.
    pub examples: [(&'static str, &'static str); 2],
}

/// By name.
pub(crate) const SUBCOMMANDS: &[Subcommand] = &[
    Subcommand {
        kind: Sub::Build,
        name: "build",
        also: &[],
        operands: "CONTEXT",
        help: "build an image from a Dockerfile; CONTEXT is the root of COPY and ADD, or - for none",
        about: "Each instruction is printed when it begins, with * if its result comes from the build cache, and what RUN prints. \
                The image gets its name when all of them are done.",
        examples: [
            ("build -t hello hello", "build hello/Dockerfile, call the image hello"),
            (
                "build --force=seccomp -f hello.df .",
                "emulate root in RUN, for package managers; the image is called hello",
            ),
        ],
    },
    Subcommand {
        kind: Sub::Delete,
        name: "delete",
        also: &["rmi", "rm"],
        operands: "IMAGE_REF...",
        help: "delete images from the storage directory",
        about: "Names may have wildcards: * ? [abc]. Layers that no other image uses stay in the build cache until gc removes them.",
        examples: [("delete hello", "delete the image hello"), ("delete hello debian:bookworm", "delete two images")],
    },
    Subcommand {
        kind: Sub::Doctor,
        name: "doctor",
        also: &[],
        operands: "",
        help: "say what this machine offers and what to ask the administrator",
        about: "Prints a line for each thing that matters: good, limited or bad, what follows from it, and what to ask the \
                administrator for. Nothing is asked over the network.",
        examples: [
            ("doctor", "look at this machine and at the storage directory"),
            ("doctor --json", "the same for a program"),
        ],
    },
    Subcommand {
        kind: Sub::Export,
        name: "export",
        also: &[],
        operands: "IMAGE_REF... PATH",
        help: "write an image into one file (.sqfs, .tar, docker-archive:FILE, oci-archive:FILE) or a directory (DIR/, oci:DIR)",
        about: "PATH tells the format unless --format does; - is standard output. The file appears when it is complete. Docker and OCI archives hold several images.",
        examples: [
            ("export hello hello.sqfs", "write a packed image, which ch-run runs as it is"),
            ("export hello docker-archive:hello.tar", "write what docker load and podman load read"),
        ],
    },
    Subcommand {
        kind: Sub::Fsck,
        name: "fsck",
        also: &[],
        operands: "",
        help: "check the storage directory",
        about: "Prints what is damaged and what depends on it; the exit code is 1 if something is.",
        examples: [
            ("fsck", "check records and layers"),
            ("fsck --deep --repair", "read every file, drop what is damaged, pull it again"),
        ],
    },
    Subcommand {
        kind: Sub::Gc,
        name: "gc",
        also: &[],
        operands: "",
        help: "remove cached layers and downloads that no image needs",
        about: "Prints how much was removed. Images stay; builds that would have used the cache run their steps again.",
        examples: [
            ("gc -n", "say what would be removed"),
            ("gc --keep 7d", "keep what was used in the last seven days"),
        ],
    },
    Subcommand {
        kind: Sub::Help,
        name: "help",
        also: &[],
        operands: "[SUBCOMMAND]",
        help: "print help, in general or for a subcommand",
        about: "The same as --help. The manual pages say more: ch-image(1), ch-run(1), ch-convert(1), ch-image-dockerfile(5).",
        examples: [("help", "list subcommands and common options"), ("help build", "explain build and its options")],
    },
    Subcommand {
        kind: Sub::History,
        name: "history",
        also: &[],
        operands: "IMAGE_REF",
        help: "show the layers of an image, topmost first",
        about: "A line for each layer: its name, size, and the instruction or download that made it.",
        examples: [("history hello", "what made hello so large?"), ("history --json hello", "the same for a program")],
    },
    Subcommand {
        kind: Sub::Import,
        name: "import",
        also: &[],
        operands: "PATH IMAGE_REF",
        help: "copy a directory, a tarball, a saved (docker save, OCI) or packed image into the storage directory",
        about: "What PATH is, is told by its content; - is standard input. An image of the same name is replaced.",
        examples: [
            ("import hello.tar.gz hello", "import what docker save, podman save or tar wrote"),
            ("import image.sif hello", "import the file system of an Apptainer image"),
        ],
    },
    Subcommand {
        kind: Sub::Inspect,
        name: "inspect",
        also: &[],
        operands: "IMAGE_REF",
        help: "show all that is known of an image in storage",
        about: "Architecture, base, digest, size, ownership, configuration, layers. No registry is asked. --format prints one field.",
        examples: [
            ("inspect hello", "for people"),
            ("inspect --format config.Env hello", "one field; {{.Config.Env}} is taken, too"),
        ],
    },
    Subcommand {
        kind: Sub::List,
        name: "list",
        also: &["images", "ls"],
        operands: "[IMAGE_REF]",
        help: "list images, or tell what is known about one",
        about: "Without an operand a line for each image in storage: name and architecture. With one, what is known of it here \
                and in its registry, which is asked.",
        examples: [
            ("list -l", "all images, with size, age, base and layers"),
            ("list debian:bookworm", "is it here, is it in the registry, for which architectures?"),
        ],
    },
    Subcommand {
        kind: Sub::Load,
        name: "load",
        also: &[],
        operands: "[PATH] [IMAGE_REF]",
        help: "the same as import, for an archive that knows the name of its image",
        about: "Names are those in the archive (docker save, podman save), unless IMAGE_REF says another one for one image of it.",
        examples: [
            ("load -i hello.tar", "import what docker save wrote"),
            ("load -i hello.tar hello:2", "under another name"),
        ],
    },
    Subcommand {
        kind: Sub::Pull,
        name: "pull",
        also: &[],
        operands: "IMAGE_REF [PATH|NAME]",
        help: "pull an image from a registry into the storage directory, perhaps under another NAME, or into a directory or one file",
        about: "Layers that are in storage already are not downloaded again. A broken download is continued by the next pull. \
                A second word is a directory if it begins with / or . or ends in /, a file if export would write one of that name, else a NAME.",
        examples: [
            ("pull debian:bookworm", "pull from Docker Hub into storage"),
            ("pull registry.example.com:5000/me/hello:1 hello.sqfs", "pull into a packed image"),
        ],
    },
    Subcommand {
        kind: Sub::Push,
        name: "push",
        also: &[],
        operands: "IMAGE_REF [DEST_REF]",
        help: "push an image to a registry",
        about: "The image becomes one layer that belongs to root:root, unless --layers or --ownership says otherwise.",
        examples: [
            ("push registry.example.com:5000/me/hello:1", "push the image of that name"),
            (
                "push --layers hello registry.example.com:5000/me/hello:1",
                "push hello; layers of its base stay as they are",
            ),
        ],
    },
    Subcommand {
        kind: Sub::Rename,
        name: "rename",
        also: &[],
        operands: "IMAGE_REF NAME",
        help: "give an image another name",
        about: "What had that name before is no longer an image.",
        examples: [
            ("rename hello me/hello:1", "hello is now me/hello:1"),
            ("rename hello registry.example.com:5000/me/hello", "prepare for push"),
        ],
    },
    Subcommand {
        kind: Sub::Reset,
        name: "reset",
        also: &[],
        operands: "",
        help: "delete all images and caches of the storage directory",
        about: "Nothing is asked. The directory itself stays.",
        examples: [("reset", "begin anew"), ("reset -s /scratch/old-images", "empty another storage directory")],
    },
    Subcommand {
        kind: Sub::Run,
        name: "run",
        also: &[],
        operands: "IMAGE [CMD [ARG...]]",
        help: "run a command in an image, with the options of docker run",
        about: "What the command writes in the image is forgotten, and your home directory is not in it. ch-run, which does the work, has more options.",
        examples: [
            ("run -it --rm hello", "run the image's own command"),
            ("run -v /scratch/me:/data -w /data hello ls", "ls in a directory of the host"),
        ],
    },
    Subcommand {
        kind: Sub::Save,
        name: "save",
        also: &[],
        operands: "IMAGE_REF...",
        help: "the same as export, as a Docker archive",
        about: "It goes to standard output, or to the file that --output names.",
        examples: [
            ("save -o hello.tar hello", "write hello.tar, which docker load reads"),
            ("save -q hello", "write it to standard output, for a pipe"),
        ],
    },
    Subcommand {
        kind: Sub::Shell,
        name: "shell",
        also: &[],
        operands: "IMAGE [CMD [ARG...]]",
        help: "look around in an image",
        about: "Runs bash, or sh if there is none. What is written is forgotten.",
        examples: [
            ("shell hello", "a shell in hello"),
            ("shell -v /scratch:/scratch hello", "with a directory of the host"),
        ],
    },
    Subcommand {
        kind: Sub::StoragePath,
        name: "storage-path",
        also: &[],
        operands: "",
        help: "print the storage directory",
        about: "--storage, else $CH_IMAGE_STORAGE, else /var/tmp/$USER/ch-image; it need not exist.",
        examples: [
            ("storage-path", "where are my images?"),
            ("storage-path -s images", "the same directory as an absolute path"),
        ],
    },
    Subcommand {
        kind: Sub::Tag,
        name: "tag",
        also: &[],
        operands: "IMAGE_REF NAME",
        help: "give an image a further name",
        about: "Layers are shared, so it takes no space.",
        examples: [
            ("tag hello hello:2", "hello is hello:2, too"),
            ("tag hello registry.example.com:5000/me/hello", "prepare for push"),
        ],
    },
    Subcommand {
        kind: Sub::Version,
        name: "version",
        also: &[],
        operands: "",
        help: "print the version",
        about: "The same as --version.",
        examples: [("version", "print the version number"), ("version -v", "print the version number, too")],
    },
];

/// What other programs have, and what to do here.
const ELSEWHERE: &[(&[&str], &str)] = &[
    (
        &["exec", "start", "create", "restart"],
        "ch-run IMAGE -- COMMAND runs a command; --join-pid PID joins a running one's container",
    ),
    (
        &["ps", "top", "stop", "kill", "logs", "attach", "wait", "stats"],
        "there is no daemon: a container is a process of yours; ps shows it, kill ends it, and it writes to your terminal",
    ),
    (
        &["prune", "df", "system", "container"],
        "ch-image gc removes what no image needs, gc -n says how much that is; ch-image list -l shows sizes",
    ),
    (
        &["search"],
        "look at https://hub.docker.com/search or at the web page of your registry; ch-image list IMAGE_REF asks a registry about one image",
    ),
    (&["buildx", "builder", "image"], "leave this word out: ch-image build, ch-image list"),
    (
        &["login", "logout"],
        "docker login and podman login write the files that are read here, too; or set CH_IMAGE_USERNAME and CH_IMAGE_PASSWORD, or wait to be asked on a terminal",
    ),
    (&["commit"], "ch-run --write changes an image; ch-image build makes one from a Dockerfile"),
];

/// A way out for who types what another program has.
pub(crate) fn elsewhere(word: &str) -> Option<&'static str> {
    ELSEWHERE.iter().find(|(words, _)| words.contains(&word)).map(|(_, answer)| *answer)
}

/// By name or by another name.
pub(crate) fn by_name(word: &str) -> Option<&'static Subcommand> {
    SUBCOMMANDS.iter().find(|sub| sub.name == word || sub.also.contains(&word))
}
