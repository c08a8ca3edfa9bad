//! Which ports does EXPOSE name? `[[ip:]host:]port[-port][/tcp|udp|sctp]` (A.11).

use std::net::IpAddr;

use crate::error::{Result, bail};

/// `80/tcp` for each port, ranges unrolled; the host part is checked and ignored.
pub fn parse(text: &str) -> Result<Vec<String>> {
    let (ports, protocol) = match text.split_once('/') {
        Some((ports, "")) => (ports, "tcp".to_owned()),
        Some((ports, protocol)) => (ports, protocol.to_ascii_lowercase()),
        None => (text, "tcp".to_owned()),
    };
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        bail!("invalid protocol in port {text:?}: expected tcp, udp or sctp");
    }
    let (outer, container) = ports.rsplit_once(':').unwrap_or(("", ports));
    let (address, host) = outer.rsplit_once(':').unwrap_or(("", outer));
    let address = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    if !address.is_empty() && address.parse::<IpAddr>().is_err() {
        bail!("invalid address in port {text:?}");
    }
    let Some((first, last)) = range(container) else {
        bail!("invalid port {text:?}: expected PORT, PORT/PROTOCOL or FIRST-LAST");
    };
    match range(host) {
        _ if host.is_empty() => {}
        Some((from, to)) if first == last || to - from == last - first => {}
        Some(_) => bail!("ranges of different length in port {text:?}"),
        None => bail!("invalid host port in {text:?}"),
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

fn range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|_| digits)
    };
    match text.split_once('-') {
        Some((first, last)) => Some((number(first)?, number(last)?)).filter(|(first, last)| first <= last),
        None => number(text).map(|port| (port, port)),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn ports() {
        let check = |text: &str, want: Option<&str>| {
            assert_eq!(super::parse(text).ok().map(|ports| ports.join(" ")).as_deref(), want, "{text}");
        };
        check("80", Some("80/tcp"));
        check("080/", Some("80/tcp"));
        check("53/UDP", Some("53/udp"));
        check("1/sctp", Some("1/sctp"));
        check("80-82/tcp", Some("80/tcp 81/tcp 82/tcp"));
        check("0", Some("0/tcp"));
        check("65535", Some("65535/tcp"));
        check("8080:80", Some("80/tcp"));
        check("127.0.0.1:8080:80", Some("80/tcp"));
        check("127.0.0.1::80", Some("80/tcp"));
        check("[::1]:8080:80", Some("80/tcp"));
        check("8000-8001:80-81", Some("80/tcp 81/tcp"));
        check("8000-8001:80", Some("80/tcp"));
        for bad in [
            "",
            "/tcp",
            "65536",
            "-1",
            "+1",
            "80x",
            "80/icmp",
            "80/tcp/udp",
            "82-80",
            "80-",
            "x:80",
            "1.2.3:1:80",
            "8000-8002:80-81",
            "80:",
            "$X",
            "host:1:2",
        ] {
            check(bad, None);
        }
        assert_eq!(super::parse("0-65535").unwrap().len(), 65536);
    }
}
