//! The trust boundary in the dependency tree: the root side must not be able to decrypt, decompress, read an archive
//! or speak to the network, so no crate that does may be linked into it, however deep.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::process::Command;

/// Crates by what they would bring. (`chacha20` is not among them: it comes as the random generator of `rand`.)
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("decryption", &["age", "age-core", "rage", "chacha20poly1305", "aes-gcm", "scrypt", "rsa", "x25519-dalek"]),
    ("TLS", &["openssl", "openssl-sys", "rustls", "native-tls", "aws-lc-rs", "ring"]),
    (
        "a codec",
        &[
            "bzip2",
            "bzip2-sys",
            "libbz2-rs-sys",
            "flate2",
            "miniz_oxide",
            "zlib-rs",
            "libz-sys",
            "liblzma",
            "liblzma-sys",
            "lzma-rs",
            "lzma-sys",
            "xz2",
            "zstd",
            "zstd-safe",
            "zstd-sys",
            "ruzstd",
            "lz4",
            "lz4_flex",
            "brotli",
            "snap",
            "async-compression",
        ],
    ),
    ("an archive reader", &["tar", "tokio-tar", "astral-tokio-tar", "zip", "cpio", "ar", "sevenz-rust"]),
    (
        "HTTP",
        &[
            "hyper",
            "hyper-util",
            "h2",
            "http",
            "reqwest",
            "ureq",
            "isahc",
            "curl",
            "attohttpc",
            "minreq",
            "axum",
            "tonic",
        ],
    ),
    ("mail or name resolution", &["lettre", "hickory-resolver", "trust-dns-resolver"]),
    ("a database", &["rusqlite", "libsqlite3-sys"]),
];

/// The names of all crates that are linked into a package.
fn tree(package: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--edges", "normal", "--package", package, "--prefix", "none", "--locked", "--offline"])
        .args(["--format", "{p}", "--no-dedupe"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split(' ').next()).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn forbidden_in(tree: &BTreeSet<String>) -> Vec<String> {
    let rows = FORBIDDEN.iter().flat_map(|(what, names)| names.iter().map(move |name| (*what, *name)));
    rows.filter(|(_, name)| tree.contains(*name)).map(|(what, name)| format!("{name} ({what})")).collect()
}

#[test]
fn the_root_side_links_nothing_that_reads_untrusted_formats() {
    let tree = tree("proxsave-helper");
    assert!(tree.contains("proxsave-proto") && tree.contains("tarpc"), "not the helper's tree: {tree:?}");
    assert_eq!(forbidden_in(&tree), Vec::<String>::new());
}

/// The same look at the front-end finds all of it, so the look works.
#[test]
fn the_front_end_does() {
    let found = forbidden_in(&tree("proxsave-ui")).join(", ");
    for name in ["age", "bzip2", "flate2", "liblzma", "tar", "zstd", "scrypt"] {
        assert!(found.contains(&format!("{name} (")), "{name} is not in: {found}");
    }
}

/// A reader of the whole helper should not have to trust more than this many crates; a rise is a decision.
#[test]
fn the_root_side_stays_small() {
    let tree = tree("proxsave-helper");
    assert!(tree.len() <= 90, "{} crates: {tree:?}", tree.len());
}
