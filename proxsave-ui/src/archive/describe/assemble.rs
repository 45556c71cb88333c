//! From bytes to a [`Description`].

use super::{Description, Layout, MalformedBackup, Span};
use crate::archive::bundle::{self, Bundle};
use crate::archive::checksum::{self, Checksum};
use crate::archive::codec::{Content, ContentMismatch, Encryption, SNIFF_LEN, sniff};
use crate::archive::manifest::{MAX_MANIFEST, Manifest, ManifestForm};
use crate::archive::name::{ArchiveName, CompanionKind, FileKind};
use crate::archive::problem::Problem;
use crate::archive::read_at::ReadAt;
use proxsave_proto::Digest;
use proxsave_proto::escape::escape;

/// [`describe_within`] the usual bound for companions.
///
/// # Errors
/// As there.
pub fn describe<R: ReadAt + ?Sized>(
    name: &[u8],
    file: &R,
    size: u64,
    companions: &[(CompanionKind, &R)],
) -> Result<Description, MalformedBackup> {
    describe_within(name, file, size, companions, MAX_MANIFEST)
}

/// Describes a backup: the file of base name `name` and `size` bytes, and what lies beside it. Reads headers,
/// companions and the first bytes of the archive, never the whole; `max_companion` bounds each companion, in bytes.
///
/// # Errors
/// [`MalformedBackup`] when there is no archive to speak of. What is wrong with a backup that can be
/// described is in [`Description::problems`].
pub fn describe_within<R: ReadAt + ?Sized>(
    name: &[u8],
    file: &R,
    size: u64,
    companions: &[(CompanionKind, &R)],
    max_companion: usize,
) -> Result<Description, MalformedBackup> {
    if size == 0 {
        return Err(MalformedBackup::Empty);
    }
    if FileKind::of(name) == FileKind::Bundle {
        let bundle = bundle::read_within(file, size, max_companion).map_err(MalformedBackup::Bundle)?;
        return describe_bundle(file, bundle);
    }
    let mut problems = Vec::new();
    let mut texts = Vec::new();
    let mut kinds: Vec<CompanionKind> = companions.iter().map(|(kind, _)| *kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for (kind, companion) in companions {
        match read_small(*companion, max_companion) {
            Ok(data) => texts.push((*kind, data)),
            Err(reason) => problems.push(Problem::BadCompanion { companion: *kind, reason }),
        }
    }
    let layout = if kinds.is_empty() { Layout::Bare } else { Layout::Raw { companions: kinds } };
    let span = Span { offset: 0, length: size };
    let description = assemble(file, layout, name.to_vec(), span, &texts, problems)?;
    if description.name.is_none() && matches!(description.content, Content::Unknown | Content::Empty) {
        return Err(MalformedBackup::NotBackup);
    }
    Ok(description)
}

fn describe_bundle<R: ReadAt + ?Sized>(file: &R, bundle: Bundle) -> Result<Description, MalformedBackup> {
    let mut problems = Vec::new();
    if !bundle.has_end_mark {
        problems.push(Problem::NoEndMark);
    }
    let Bundle { archive_name, archive, companions, .. } = bundle;
    assemble(file, Layout::Bundle, archive_name, archive, &companions, problems)
}

/// Reads a companion whole, within its bound.
fn read_small<R: ReadAt + ?Sized>(file: &R, max: usize) -> Result<Vec<u8>, String> {
    let mut data = Vec::new();
    let mut buffer = [0; 8192];
    // In pieces: what is allowed may be far more than what is there.
    loop {
        let count = file.read_full_at(&mut buffer, data.len() as u64).map_err(|error| error.kind().to_string())?;
        data.extend_from_slice(buffer.get(..count).unwrap_or_default());
        if data.len() > max {
            return Err(format!("it is larger than {max} bytes (see --limit-manifest)"));
        }
        if count < buffer.len() {
            return Ok(data);
        }
    }
}

fn assemble<R: ReadAt + ?Sized>(
    file: &R,
    layout: Layout,
    archive_name: Vec<u8>,
    span: Span,
    companions: &[(CompanionKind, Vec<u8>)],
    mut problems: Vec<Problem>,
) -> Result<Description, MalformedBackup> {
    let first = first_bytes(file, span)?;
    let content = sniff(&first);
    let manifest = choose_manifest(companions, &mut problems);
    let checksum = read_checksum(companions, &archive_name, &mut problems);
    check_metadata_checksum(companions, &mut problems);
    let name = ArchiveName::parse(&archive_name);
    let stated = manifest.as_ref().and_then(|manifest| manifest.sha256);
    let listed = checksum.as_ref().map(|checksum| checksum.digest);
    match (listed, stated) {
        (Some(checksum), Some(manifest)) if checksum != manifest => {
            problems.push(Problem::ChecksumsDisagree { checksum, manifest });
        }
        (None, None) => problems.push(Problem::NoChecksum),
        _ => {}
    }
    check_content(name.as_ref(), content, &mut problems);
    match &manifest {
        Some(manifest) => check_manifest(manifest, name.as_ref(), &archive_name, span.length, &mut problems),
        None => problems.push(Problem::NoManifest),
    }
    Ok(Description { layout, archive_name, name, span, content, manifest, sha256: stated.or(listed), problems })
}

fn first_bytes<R: ReadAt + ?Sized>(file: &R, span: Span) -> Result<Vec<u8>, MalformedBackup> {
    let length = usize::try_from(span.length).map_or(SNIFF_LEN, |length| length.min(SNIFF_LEN));
    let mut first = vec![0; length];
    let count =
        file.read_full_at(&mut first, span.offset).map_err(|error| MalformedBackup::Read(error.kind().to_string()))?;
    first.truncate(count);
    Ok(first)
}

fn text_of(companions: &[(CompanionKind, Vec<u8>)], wanted: CompanionKind) -> Option<&[u8]> {
    companions.iter().find(|(kind, _)| *kind == wanted).map(|(_, data)| data.as_slice())
}

/// The authoritative manifest, else the metadata; a copy that differs is reported.
fn choose_manifest(companions: &[(CompanionKind, Vec<u8>)], problems: &mut Vec<Problem>) -> Option<Manifest> {
    let mut read = |kind: CompanionKind, parse: fn(&[u8]) -> Result<Manifest, _>| {
        let parsed: Result<Manifest, crate::archive::manifest::ManifestError> = parse(text_of(companions, kind)?);
        parsed.map_err(|error| problems.push(Problem::BadCompanion { companion: kind, reason: error.to_string() })).ok()
    };
    let authoritative = read(CompanionKind::ManifestJson, Manifest::parse_json);
    let metadata = read(CompanionKind::Metadata, Manifest::parse_metadata);
    match (authoritative, metadata) {
        (Some(authoritative), Some(metadata)) => {
            let digests = authoritative.sha256.zip(metadata.sha256);
            if digests.is_some_and(|(one, other)| one != other) {
                problems.push(Problem::ManifestsForDifferentArchives);
            } else if metadata.form == ManifestForm::Json && authoritative != metadata {
                problems.push(Problem::ManifestsDiffer);
            }
            Some(authoritative)
        }
        (authoritative, metadata) => authoritative.or(metadata),
    }
}

fn read_checksum(
    companions: &[(CompanionKind, Vec<u8>)],
    archive_name: &[u8],
    problems: &mut Vec<Problem>,
) -> Option<Checksum> {
    let data = text_of(companions, CompanionKind::Checksum)?;
    match checksum::parse(data) {
        Ok(checksum) => {
            if let Some(name) = checksum.name.as_ref().filter(|name| name.as_slice() != archive_name) {
                problems.push(Problem::ChecksumForOther { name: escape(name) });
            }
            Some(checksum)
        }
        Err(error) => {
            problems.push(Problem::BadCompanion { companion: CompanionKind::Checksum, reason: error.to_string() });
            None
        }
    }
}

fn check_metadata_checksum(companions: &[(CompanionKind, Vec<u8>)], problems: &mut Vec<Problem>) {
    let Some(data) = text_of(companions, CompanionKind::MetadataChecksum) else { return };
    match (checksum::parse(data), text_of(companions, CompanionKind::Metadata)) {
        (Ok(checksum), Some(metadata)) if checksum.digest != Digest::of(metadata) => {
            problems.push(Problem::MetadataChecksum);
        }
        (Ok(_), _) => {}
        (Err(error), _) => problems
            .push(Problem::BadCompanion { companion: CompanionKind::MetadataChecksum, reason: error.to_string() }),
    }
}

/// The content against the name. What is below an encryption can be checked only when it is decrypted.
fn check_content(name: Option<&ArchiveName>, content: Content, problems: &mut Vec<Problem>) {
    let promised = match name {
        Some(ArchiveName { encryption: Encryption::Age, .. }) => Content::Age,
        Some(name) => Content::Packed(name.codec),
        None if matches!(content, Content::Age | Content::Packed(_)) => return,
        None => Content::Unknown,
    };
    if promised != content || content == Content::Unknown {
        problems.push(Problem::Content(ContentMismatch { promised, found: content }));
    }
}

fn check_manifest(
    manifest: &Manifest,
    name: Option<&ArchiveName>,
    archive_name: &[u8],
    length: u64,
    problems: &mut Vec<Problem>,
) {
    if manifest.form == ManifestForm::Legacy {
        problems.push(Problem::LegacyMetadata);
    } else if manifest.created_at.is_none() {
        problems.push(Problem::NoTime);
    }
    if let Some(size) = manifest.archive_size.filter(|size| *size != length) {
        problems.push(Problem::Size { found: length, manifest: size });
    }
    if let Some(was) = manifest.archive_name().filter(|was| was.as_bytes() != archive_name) {
        problems.push(Problem::Renamed { was: was.to_owned() });
    }
    match (manifest.encryption(), name.map(|name| name.encryption)) {
        (Some(manifest), Some(name)) if manifest != name => {
            problems.push(Problem::EncryptionDisagrees { name, manifest });
        }
        (None, _) => {
            if let Some(mode) = manifest.encryption_mode.clone() {
                problems.push(Problem::UnknownEncryption { mode });
            }
        }
        _ => {}
    }
    match (manifest.codec(), name.map(|name| name.codec), &manifest.compression_type) {
        (Some(manifest), Some(name), _) if manifest != name => {
            problems.push(Problem::CodecDisagrees { name, manifest });
        }
        (None, _, Some(compression)) => problems.push(Problem::UnknownCodec { compression: compression.clone() }),
        _ => {}
    }
    let hosts = name.and_then(|name| name.host.as_deref()).zip(manifest.hostname.as_deref());
    if let Some((name, manifest)) = hosts.filter(|(name, manifest)| !same_host(name, manifest)) {
        problems.push(Problem::HostDisagrees { name: name.to_owned(), manifest: manifest.to_owned() });
    }
}

/// Whether two host names can be one host's: equal, or one is the other without its domain.
fn same_host(one: &str, other: &str) -> bool {
    let is_short_of = |short: &str, long: &str| long.strip_prefix(short).is_some_and(|rest| rest.starts_with('.'));
    one == other || is_short_of(one, other) || is_short_of(other, one)
}
