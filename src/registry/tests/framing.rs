//! HTTP that no honest server speaks (H15 to H18): an error, soon, and never a wrong success.

use std::time::Instant;

use super::*;
use crate::registry::scripted::Reply;

/// What becomes of a raw answer to a request for a manifest.
fn outcome(raw: impl Into<Vec<u8>>) -> Result<String, String> {
    let raw = raw.into();
    let server = Server::start(move |_| Reply::raw(raw.clone()));
    let start = Instant::now();
    let fetched = client(&server).manifest("a/b", "1", Accept::Any);
    // Nothing was waited for until the patience for it was at an end.
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    fetched.map(|f| String::from_utf8_lossy(&f.unwrap().bytes).into_owned()).map_err(|e| e.to_string())
}

fn head(headers: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n{{}}")
}

#[test]
fn honest_answers() {
    let check = |raw: &str| assert_eq!(outcome(raw).as_deref(), Ok("{}"), "{raw}");
    check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
    check("HTTP/1.0 200 OK\r\n\r\n{}");
    check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1;x=y\r\n}\r\n0\r\n\r\n");
    check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nTrailer: x\r\n\r\n");
    check("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
    check("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
}

/// H15
#[test]
fn lengths() {
    for headers in [
        "Content-Length: 2\r\nContent-Length: 3",
        "Content-Length: 2\r\nContent-Length: 2",
        "Content-Length: 2, 3",
        "Content-Length: 2\r\nTransfer-Encoding: chunked",
        "Content-Length: +2",
        "Content-Length: 0x2",
        "Content-Length: -2",
        "Content-Length: 18446744073709551616",
        "Content-Length: 2 2",
        "Content-Length:",
        "Content-Length: 9",
        "Content-Length: 99999999999999999",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    ] {
        assert!(outcome(head(headers)).is_err(), "{headers}");
    }
}

/// H16
#[test]
fn chunks() {
    let long_extension = format!("2;{}\r\n{{}}\r\n0\r\n\r\n", "x".repeat(1 << 20));
    for body in [
        "10000000000000000\r\n{}\r\n0\r\n\r\n",
        "ffffffffffffffff\r\n{}\r\n0\r\n\r\n",
        "-2\r\n{}\r\n0\r\n\r\n",
        "2\n{}\n0\n\n",
        "2\r\n{}0\r\n\r\n",
        "x\r\n{}\r\n0\r\n\r\n",
        "\r\n{}\r\n0\r\n\r\n",
        "2\r\n{}\r\n",
        "2\r\n{",
        &long_extension,
    ] {
        let raw = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        assert!(outcome(raw).is_err(), "{:?}", &body[..body.len().min(40)]);
    }
}

/// H17
#[test]
fn headers() {
    let many: String = (0..10_000).map(|n| format!("X-{n}: y\r\n")).collect();
    for headers in [
        format!("X: {}", "y".repeat(1 << 20)),
        many + "Z: 1",
        "X: a\0b".to_owned(),
        "X\0: a".to_owned(),
        "no colon".to_owned(),
        " folded: x".to_owned(),
        "X : space".to_owned(),
    ] {
        assert!(outcome(head(&headers)).is_err(), "{:?}", &headers[..headers.len().min(40)]);
    }
}

/// H18
#[test]
fn statuses() {
    let endless = "HTTP/1.1 100 Continue\r\n\r\n".repeat(100_000);
    for raw in ["", "\r\n\r\n", "HTTP/2 200\r\n\r\n", "HTTP/1.1 099 X\r\n\r\n", "SSH-2.0-OpenSSH\r\n", &endless] {
        assert!(outcome(raw).is_err(), "{:?}", &raw[..raw.len().min(40)]);
    }
}
