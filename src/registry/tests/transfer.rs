//! Blobs over bad networks: every byte once, in order, or an error.

use std::io::Read;
use std::time::Instant;

use super::*;
use crate::error::Context;
use crate::registry::scripted::{How, Reply, ranged};

const SIZE: usize = 300_000;

/// Reads a blob from `offset` and checks it.
fn download(client: &Client, bytes: &[u8], offset: usize) -> Result<(), String> {
    let mut got = Vec::new();
    let read = |got: &mut Vec<u8>| -> crate::error::Result<()> {
        let mut reader = client.blob("a/b", &descriptor(bytes), offset as u64)?;
        reader.read_to_end(got).context(|| "read")?;
        // The end stays the end.
        assert_eq!(reader.read(&mut [0; 9]).unwrap(), 0);
        Ok(())
    };
    read(&mut got).map_err(|e| e.to_string())?;
    assert!(got == bytes[offset..], "{} of {} bytes are right", common(&got, &bytes[offset..]), bytes.len() - offset);
    Ok(())
}

fn common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[track_caller]
fn served(bytes: &[u8], reply: impl Fn(&crate::registry::scripted::Seen, usize) -> Reply + Send + Sync + 'static) {
    served_to(hasty(), bytes, reply);
}

#[track_caller]
fn served_to(
    options: Options,
    bytes: &[u8],
    reply: impl Fn(&crate::registry::scripted::Seen, usize) -> Reply + Send + Sync + 'static,
) {
    let count = std::sync::atomic::AtomicUsize::new(0);
    let server = Server::start(move |seen| reply(seen, count.fetch_add(1, std::sync::atomic::Ordering::SeqCst)));
    download(&client_with(&server, options, Arc::new(Anonymous)), bytes, 0).unwrap();
}

/// As [`hasty`], but a server may be silent for two seconds only.
fn impatient() -> Options {
    let mut options = hasty();
    options.timeouts.stall = Duration::from_secs(2);
    options
}

#[test]
fn in_every_form() {
    let bytes = noise(SIZE);
    let whole = Reply::new(200).body(bytes.clone());
    for how in [How::Whole, How::Chunked(1000), How::Chunked(70_000), How::UntilClose] {
        let reply = whole.clone().how(how);
        served(&bytes, move |_, _| reply.clone());
    }
    // H19: an encoding of which nobody asked is none of ours: the bytes are what the digest is about.
    let encoded = whole.clone().header("Content-Encoding", "gzip");
    served(&bytes, move |_, _| encoded.clone());
    let other = whole.header("ETag", "\"x\"").header("Content-Type", "application/octet-stream");
    served(&bytes, move |_, _| other.clone());
    served(b"", |_, _| panic!("an empty blob needs no request"));
}

#[test]
fn from_an_offset() {
    let bytes = noise(SIZE);
    let registry = Registry::start();
    registry.blob("a/b", &bytes);
    let client = client(&registry.server);
    for offset in [0, 1, 1000, SIZE - 1, SIZE] {
        registry.server.forget();
        download(&client, &bytes, offset).unwrap();
        let ranges: Vec<_> = registry.server.seen().iter().map(|s| s.header("range").map(str::to_owned)).collect();
        match offset {
            0 => assert_eq!(ranges, [None]),
            SIZE => assert!(ranges.is_empty()),
            n => assert_eq!(ranges, [Some(format!("bytes={n}-"))]),
        }
    }
    assert!(client.blob("a/b", &descriptor(&bytes), SIZE as u64 + 1).is_err());
}

/// Cut at each 64 KiB and at odd places: resumed where it broke.
#[test]
fn cut_connections_are_resumed() {
    let bytes = noise(SIZE);
    for step in [1 << 16, 100_001] {
        let held = bytes.clone();
        served(&bytes, move |seen, _| ranged(seen, &held).how(How::Cut(step)));
    }
    // A chunked answer without its last chunk is cut, too.
    let held = bytes.clone();
    served(&bytes, move |seen, n| match n {
        0 => {
            let mut raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n".to_vec();
            raw.extend(&held[..1000]);
            raw.extend(b"\r\n");
            Reply::raw(raw)
        }
        _ => ranged(seen, &held),
    });
}

/// M04
#[test]
fn a_blob_that_stays_short_is_an_error() {
    let bytes = noise(1000);
    let short = bytes[..900].to_vec();
    let server = Server::start(move |seen| match seen.header("range") {
        None => Reply::new(200).body(short.clone()).how(How::UntilClose),
        Some(_) => Reply::new(416),
    });
    let e = download(&client(&server), &bytes, 0).unwrap_err();
    assert!(e.contains("blob sha256:"), "{e}");
    let tries = server.lines().len();
    assert!((2..=8).contains(&tries), "{tries}");
    // The same, admitted: no second try.
    let short = bytes[..900].to_vec();
    let server = Server::start(move |_| Reply::new(200).body(short.clone()));
    let e = download(&client(&server), &bytes, 0).unwrap_err();
    assert!(e.ends_with("server sends 900 bytes where the manifest says 1000"), "{e}");
    assert_eq!(server.lines().len(), 1);
}

/// M03
#[test]
fn a_blob_that_is_too_long_is_an_error() {
    let bytes = noise(1000);
    let long = [&bytes[..], b"x"].concat();
    for (how, want) in [
        (How::Whole, "server sends 1001 bytes where the manifest says 1000"),
        (How::Chunked(10), "longer than the 1000 bytes promised"),
        (How::UntilClose, "longer than the 1000 bytes promised"),
    ] {
        let reply = Reply::new(200).body(long.clone()).how(how);
        let server = Server::start(move |_| reply.clone());
        let e = download(&client(&server), &bytes, 0).unwrap_err();
        assert!(e.ends_with(want), "{e}");
    }
}

/// R09: 200 instead of 206.
#[test]
fn ranges_ignored() {
    let bytes = noise(SIZE);
    let held = bytes.clone();
    served(&bytes, move |_, n| {
        let reply = Reply::new(200).body(held.clone());
        if n == 0 { reply.how(How::Cut(100_000)) } else { reply }
    });
    let held = bytes.clone();
    let server = Server::start(move |_| Reply::new(200).body(held.clone()));
    download(&client(&server), &bytes, 1234).unwrap();
}

/// A server that knows no ranges breaks where it has not yet come to anything new: that is one of its failures, too.
#[test]
fn ranges_ignored_by_one_that_breaks() {
    let bytes = noise(SIZE);
    let held = bytes.clone();
    served(&bytes, move |_, n| {
        let reply = Reply::new(200).body(held.clone());
        match n {
            0 => reply.how(How::Cut(150_000)),
            1 => reply.how(How::Cut(60_000)),
            _ => reply,
        }
    });
    let held = bytes.clone();
    let server = Server::start(move |_| Reply::new(200).body(held.clone()).how(How::Cut(1000)));
    let e = download(&client(&server), &bytes, 1234).unwrap_err();
    assert!(e.contains("gave up at byte 1234 of"), "{e}");
}

/// R10: 206 with other bytes than asked for: once more from the beginning, then an error.
#[test]
fn ranges_that_lie() {
    let bytes = noise(SIZE);
    let wrong = |range: &str| {
        Reply::new(206).header("Content-Range", range.replace("SIZE", &SIZE.to_string())).body(noise(SIZE - 1000))
    };
    for range in ["bytes 0-298999/SIZE", "bytes 1000-299999/400000", "bytes 1000-299999/*", "items 1-2/3", ""] {
        let (held, reply) = (bytes.clone(), wrong(range));
        let server = Server::start(move |seen| match seen.header("range") {
            Some(_) => reply.clone(),
            None => Reply::new(200).body(held.clone()),
        });
        download(&client(&server), &bytes, 1000).unwrap();
        assert_eq!(server.lines().len(), 2, "{range}");
        let reply = wrong(range);
        let server = Server::start(move |_| reply.clone());
        let e = download(&client(&server), &bytes, 1000).unwrap_err();
        assert!(e.contains("206"), "{e}");
        assert_eq!(server.lines().len(), 2, "{range}");
    }
    let held = bytes.clone();
    served(&bytes, move |seen, n| match n {
        0 => ranged(seen, &held).header("ETag", "\"one\"").how(How::Cut(1000)),
        1 => ranged(seen, &noise(SIZE + 7)[7..]).header("ETag", "\"two\""),
        _ => ranged(seen, &held).header("ETag", "\"two\""),
    });
}

/// Progress forgives: a network that breaks every 70 kB is slow, not dead.
#[test]
fn progress_is_rewarded() {
    let bytes = noise(600_000);
    let held = bytes.clone();
    served(&bytes, move |seen, _| ranged(seen, &held).how(How::Cut(70_000)));
    // Breaking at the same place again and again is not forgiven.
    let held = bytes.clone();
    let server = Server::start(move |seen| ranged(seen, &held).how(How::Cut(10)));
    let e = download(&client(&server), &bytes, 0).unwrap_err();
    assert!(e.contains("gave up at byte 30 of 600000: connection closed by the server"), "{e}");
}

#[test]
fn silence_is_an_error_slowness_is_not() {
    let bytes = noise(3000);
    let impatient = |server: &Server| client_with(server, impatient(), Arc::new(Anonymous));
    // 60 pauses of 50 ms: longer in all than a silence may be, but never silent for long.
    let drip = Reply::new(200).body(bytes.clone()).how(How::Drip(50, Duration::from_millis(50)));
    let server = Server::start(move |_| drip.clone());
    download(&impatient(&server), &bytes, 0).unwrap();
    assert_eq!(server.lines().len(), 1);
    let stall = Reply::new(200).body(bytes.clone()).how(How::Stall(1000));
    let server = Server::start(move |_| stall.clone());
    // Which would be silent for ever.
    let e = download(&impatient(&server), &bytes, 0).unwrap_err();
    assert!(e.contains("connection stalled") || e.contains("starting over"), "{e}");
}

#[test]
fn stalls_are_resumed() {
    let bytes = noise(SIZE);
    let held = bytes.clone();
    served_to(impatient(), &bytes, move |seen, n| match n {
        0 => ranged(seen, &held).how(How::Stall(1000)),
        _ => ranged(seen, &held),
    });
}

/// Headers that never end, and none at all.
#[test]
fn no_answer() {
    let server = Server::start(|_| Reply::new(200).how(How::Close));
    let e = download(&client(&server), b"x", 0).unwrap_err();
    assert!(e.starts_with("gave up after 3 tries: GET http://"), "{e}");
    assert!(e.ends_with("connection closed by the server"), "{e}");
    assert_eq!(server.lines().len(), 3);
}

#[test]
fn statuses_that_pass() {
    let bytes = noise(1000);
    for status in [408, 429, 499, 500, 502, 503, 504, 522] {
        let held = bytes.clone();
        served(&bytes, move |seen, n| if n < 2 { Reply::new(status) } else { ranged(seen, &held) });
        let server = Server::start(move |_| Reply::new(status).body("later"));
        let e = download(&client(&server), &bytes, 0).unwrap_err();
        assert!(e.starts_with("gave up after 3 tries: GET http://") && e.ends_with("later"), "{e}");
        assert_eq!(server.lines().len(), 3);
    }
    for status in [400, 403, 404, 410, 505] {
        let server = Server::start(move |_| Reply::new(status));
        assert!(download(&client(&server), &bytes, 0).is_err());
        assert_eq!(server.lines().len(), 1, "{status}");
    }
}

#[test]
fn retry_after_is_honoured_within_limits() {
    let bytes = noise(10);
    let waited = |limit: Duration, value: &'static str| {
        let held = bytes.clone();
        let mut options = hasty();
        options.policy.server_ceiling = limit;
        let start = Instant::now();
        served_to(options, &bytes, move |seen, n| match n {
            0 => Reply::new(429).header("Retry-After", value),
            _ => ranged(seen, &held),
        });
        start.elapsed()
    };
    let short = Duration::from_millis(400);
    assert!(waited(short, "1000000") >= short);
    assert!(waited(short, "Fri, 31 Dec 9999 23:59:59 GMT") >= short);
    for absurd in ["-1", "soon", "", "Sun, 06 Nov 1994 08:49:37 GMT", "0"] {
        assert!(waited(PATIENCE, absurd) < PATIENCE, "{absurd}");
    }
}

/// A signed URL that runs out in the middle: the registry is asked for another.
#[test]
fn redirects_that_run_out() {
    let bytes = noise(SIZE);
    let held = bytes.clone();
    let store = Server::start(move |seen| match seen.query("n")[0].as_str() {
        "0" => ranged(seen, &held).how(How::Cut(100_000)),
        "1" => ranged(seen, &held).how(How::Cut(1)),
        _ => ranged(seen, &held),
    });
    let (at, count) = (store.url("/data"), std::sync::atomic::AtomicUsize::new(0));
    let server = Server::start(move |_| {
        let n = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Reply::redirect(307, format!("{at}?n={n}&X-Amz-Signature=secret"))
    });
    download(&client(&server), &bytes, 0).unwrap();
    assert_eq!(server.lines().len(), 3);
    assert_eq!(
        store.seen().iter().map(|s| s.header("range")).collect::<Vec<_>>(),
        [None, Some("bytes=100000-"), Some("bytes=100001-")]
    );
}

#[test]
fn small_blobs_are_verified() {
    let registry = Registry::start();
    registry.blob("a/b", b"config");
    let client = client(&registry.server);
    assert_eq!(client.blob_bytes("a/b", &descriptor(b"config")).unwrap(), b"config");
    // M02
    registry.first(1, "GET", Reply::new(200).body("CONFIG"));
    let e = client.blob_bytes("a/b", &descriptor(b"config")).unwrap_err();
    assert!(e.to_string().starts_with("digest mismatch: expected sha256:"), "{e}");
    let huge = Descriptor { size: 5 << 20, ..descriptor(b"config") };
    assert!(client.blob_bytes("a/b", &huge).unwrap_err().to_string().contains("too large"));
    let missing = client.blob_bytes("a/b", &descriptor(b"other")).unwrap_err().to_string();
    assert!(missing.contains("is missing") && missing.contains("BLOB_UNKNOWN blob unknown"), "{missing}");
}

#[test]
fn several_threads_share_a_client() {
    let registry = Registry::start();
    let blobs: Vec<_> = (1..8).map(|n| noise(n * 40_000)).collect();
    for bytes in &blobs {
        registry.blob("a/b", bytes);
    }
    let client = client(&registry.server);
    std::thread::scope(|s| {
        for bytes in &blobs {
            s.spawn(|| download(&client, bytes, 0).unwrap());
        }
    });
    let connections = registry.server.connections();
    assert!(connections <= 8, "{connections}");
    // Kept connections serve again.
    download(&client, &blobs[0], 0).unwrap();
    assert_eq!(registry.server.connections(), connections);
}
