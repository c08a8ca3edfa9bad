//! What of the host is within reach of RUN, and what is not?

use std::fs;

use crate::harness::site::in_tmp;
use crate::harness::{image, in_each_mode};

/// The host's files there are safe, steps find what earlier ones left, and its mode can be set.
#[test]
fn tmp_is_the_images() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let host = in_tmp("ch-tmp");
        fs::write(&host, "results of a week\n").unwrap();
        let host = host.to_str().unwrap();
        let left = "FROM base\nRUN echo left >/tmp/left; test ! -e HOST && rm -rf HOST\n".replace("HOST", host);
        site.build("out", &left).success();
        site.build("out", &format!("{left}RUN cat /tmp/left; rm /tmp/*\nRUN ls -A /tmp\n")).stdout("left\n").success();
        assert_eq!(fs::read_to_string(host).unwrap(), "results of a week\n");
        for force in ["none", "seccomp", "notify"] {
            let text = "FROM base\nRUN chmod 1777 /tmp && touch /tmp/f /var/tmp/f && rm -rf /tmp/* /var/tmp/*\n";
            site.build("out", text).arg(format!("--force={force}")).success();
        }
        for force in ["none", "seccomp", "notify"] {
            let text = "FROM base\nRUN chown root:root /tmp && chmod ugo+rwXt /tmp\n";
            site.build("out", text).arg(format!("--force={force}")).success();
        }
        let look = format!("FROM base\nRUN cat {host}\n");
        site.build("out", &look).args(["--bind", "/tmp"]).stdout("results of a week\n").success();
        fs::remove_file(host).unwrap();
    });
}

/// There is one where the image has none, for RUN alone unless something is left in it.
#[test]
fn tmp_that_is_missing() {
    in_each_mode(|site| {
        site.import(image::small(), "base");
        let text = "FROM base\nRUN rmdir /tmp\nRUN stat -c %a /tmp; rmdir /tmp; mkdir -p /a; ln -s /a/tmp /tmp\n\
                    RUN stat -L -c %a /tmp; echo x >/tmp/x\nRUN cat /a/tmp/x; stat -c %a /a/tmp\n";
        site.build("out", text).stdout("1777\n1777\nx\n1777\n").success();
    });
}
