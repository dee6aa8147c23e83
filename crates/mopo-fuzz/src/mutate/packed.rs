//! Changes inside of something else: JSON behind its length, files in an archive, a request's body. What is around is
//! made to fit, or else every input would be refused for a wrong length or checksum.

use std::io::Write;

use flate2::write::GzEncoder;
use flate2::{Compression, Crc};
use rand::RngExt;
use rand::seq::{IndexedMutRandom, IndexedRandom};

use super::{Dice, bytes, text};

/// Rows of JSON in another container now and then.
pub(super) fn rows(text: &mut Vec<u8>, dice: &mut Dice) {
    if dice.random_bool(0.08) {
        let rows: Vec<&[u8]> = text.split(|b| *b == b'\n').filter(|row| !row.is_empty()).collect();
        *text = [b"[".as_slice(), &rows.join(&b",\n"[..]), b"]"].concat();
    }
    if dice.random_bool(0.06) {
        let mut encoder = GzEncoder::new(vec![], Compression::fast());
        encoder.write_all(text).expect("a vector takes all");
        *text = encoder.finish().expect("a vector takes all");
        if dice.random_bool(0.5) {
            bytes::once(text, &[], &[], dice);
        }
    }
}

/// A safetensors file: its header, and mostly the right length before it.
pub(super) fn safetensors(file: &mut Vec<u8>, words: &[&str], dice: &mut Dice) {
    let length = file.get(..8).map(|head| u64::from_le_bytes(head.try_into().expect("eight")));
    let length = length.and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= file.len() - 8);
    let Some(length) = length.filter(|_| dice.random_bool(0.85)) else {
        return bytes::change(file, &[], words, dice);
    };
    let mut header = file[8..8 + length].to_vec();
    let mut data = file[8 + length..].to_vec();
    text::change(&mut header, &[], words, dice);
    match dice.random_range(0..8) {
        0 => data.truncate(dice.random_range(0..=data.len())),
        1 => data.extend(bytes::filler(dice)),
        2 => bytes::change(&mut data, &[], words, dice),
        _ => {}
    }
    let mut length = (header.len() as u64).to_le_bytes();
    if dice.random_bool(0.05) {
        length[dice.random_range(0..8)] ^= 1 << dice.random_range(0..8);
    }
    *file = [&length[..], &header, &data].concat();
}

/// A request: its head, or its body with the right length.
pub(super) fn http(request: &mut Vec<u8>, other: &[u8], words: &[&str], dice: &mut Dice) {
    let split =
        |bytes: &[u8]| bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
    let Some(at) = split(request).filter(|_| dice.random_bool(0.9)) else {
        return text::change(request, other, words, dice);
    };
    let (mut head, mut body) = (request[..at].to_vec(), request[at..].to_vec());
    let their_body = split(other).map_or(other, |at| &other[at..]);
    text::change(&mut body, their_body, words, dice);
    if dice.random_bool(0.1) {
        text::once(&mut head, other, words, dice);
    }
    if dice.random_bool(0.97) {
        let text = String::from_utf8_lossy(&head).into_owned();
        let lines = text.split("\r\n").map(|line| match line.starts_with("Content-Length:") {
            true => format!("Content-Length: {}", body.len()),
            false => line.to_owned(),
        });
        head = lines.collect::<Vec<_>>().join("\r\n").into_bytes();
    }
    *request = [head, body].concat();
}

/// An archive, made again with one file changed; or any of its bytes.
pub(super) fn zip(archive: &mut Vec<u8>, words: &[&str], dice: &mut Dice) {
    let mut files = stored(archive);
    if files.is_empty() || dice.random_bool(0.2) {
        return bytes::change(archive, &[], words, dice);
    }
    // The pickle says everything; the others are only numbers.
    let pickle = files.iter().position(|(name, _)| name.ends_with(".pkl"));
    let chosen = match pickle.filter(|_| dice.random_bool(0.85)) {
        Some(pickle) => pickle,
        None => dice.random_range(0..files.len()),
    };
    bytes::change(&mut files[chosen].1, &[], words, dice);
    if dice.random_bool(0.05) {
        let gone = dice.random_range(0..files.len());
        files.remove(gone);
    }
    if dice.random_bool(0.03)
        && let Some((name, _)) = files.choose_mut(dice)
    {
        *name = words.choose(dice).copied().unwrap_or("x").into();
    }
    *archive = zip_of(&files);
}

/// The files of an archive that stores them as they are, in the order of their local headers; nothing of any other.
fn stored(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
    let u16_at = |at: usize| archive.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    let u32_at = |at: usize| {
        archive.get(at..at + 4).map(|b| u32::from_le_bytes(b.try_into().expect("four bytes")))
    };
    // The directory has sizes even where the local headers leave them to what follows.
    let mut files = vec![];
    let Some(end) = archive.windows(4).rposition(|four| four == b"PK\x05\x06") else {
        return files;
    };
    let mut at = u32_at(end + 16).unwrap_or(u32::MAX) as usize;
    while archive.get(at..).is_some_and(|rest| rest.starts_with(b"PK\x01\x02")) {
        let read = || {
            let (size, name, extra) = (u32_at(at + 20)?, u16_at(at + 28)?, u16_at(at + 30)?);
            let (comment, local) = (u16_at(at + 32)?, u32_at(at + 42)? as usize);
            let text = archive.get(at + 46..at + 46 + usize::from(name))?;
            let begin =
                local + 30 + usize::from(u16_at(local + 26)?) + usize::from(u16_at(local + 28)?);
            let data = archive.get(begin..begin + size as usize)?;
            let next = at + 46 + usize::from(name) + usize::from(extra) + usize::from(comment);
            Some((String::from_utf8_lossy(text).into_owned(), data.to_vec(), next))
        };
        let Some((name, data, next)) = read() else { break };
        files.push((name, data));
        at = next;
    }
    files
}

/// An archive of files, stored as they are.
pub(crate) fn zip_of(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut archive, mut directory) = (vec![], vec![]);
    for (name, data) in files {
        let mut crc = Crc::new();
        crc.update(data);
        let size = (data.len() as u32).to_le_bytes();
        // Version, flags, method, time, date; checksum, both sizes; lengths of the name and of no extra field.
        let mut head = vec![20, 0, 0, 0, 0, 0, 0, 0, 33, 0];
        head.extend(crc.sum().to_le_bytes());
        head.extend([size, size].concat());
        head.extend((name.len() as u16).to_le_bytes());
        head.extend([0, 0]);
        let place = (archive.len() as u32).to_le_bytes();
        archive.extend(b"PK\x03\x04");
        archive.extend(&head);
        archive.extend(name.bytes());
        archive.extend(data);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&head);
        directory.extend([0; 10]);
        directory.extend(place);
        directory.extend(name.bytes());
    }
    let begin = (archive.len() as u32).to_le_bytes();
    let n = (files.len() as u16).to_le_bytes();
    archive.extend(&directory);
    archive.extend(b"PK\x05\x06\0\0\0\0");
    archive.extend([n, n].concat());
    archive.extend((directory.len() as u32).to_le_bytes());
    archive.extend(begin);
    archive.extend([0, 0]);
    archive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_taken_apart_and_put_together() {
        let files =
            vec![("m/data.pkl".to_string(), b"\x80\x02}.".to_vec()), ("m/0".into(), vec![7; 300])];
        assert_eq!(stored(&zip_of(&files)), files);
        let fixture =
            include_bytes!("../../../mopo-lm/tests/parity/fixtures/pytorch/pytorch_model.bin");
        let found = stored(fixture);
        assert!(found.iter().any(|(name, _)| name.ends_with("data.pkl")), "{}", found.len());
        assert_eq!(stored(&zip_of(&found)), found);
    }
}
