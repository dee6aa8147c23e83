//! TensorBoard's event files: scalars of training steps.
//!
//! A file is a sequence of records: length, checksum of the length, content, checksum of the content. The content
//! is a protocol buffer `Event`, of which three kinds are written: the file's version, the start of a session, and
//! scalars. Checksums are CRC-32C, rotated and offset (the framing of TensorFlow's `tf_record.proto`).

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::MetricsRow;

/// Writes the rows of one phase into a file of its own.
#[derive(Debug)]
pub struct EventWriter {
    file: File,
    path: PathBuf,
}

impl EventWriter {
    /// Begins a file in the folder `dir`, which is made. `step` is the first step that will be written: what
    /// TensorBoard has read of this and later steps from other files there is void.
    ///
    /// # Errors
    /// The folder or the file cannot be written.
    pub fn create(dir: &Path, step: usize) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let seconds = now() as u64;
        // Files of a folder are read in the order of their names.
        let name = |n: usize| dir.join(format!("events.out.tfevents.{seconds:010}.{n:04}.mopo"));
        let new = |path: PathBuf| {
            let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
            Ok::<_, io::Error>(Self { file, path })
        };
        let mut writer = (0..10_000)
            .map(name)
            .find(|path| !path.exists())
            .map_or_else(|| Err(io::Error::other("too many event files")), new)?;
        let version = message(|event| bytes(event, 3, b"brain.Event:2"));
        writer.event(None, &version)?;
        // SessionLog with status START.
        let start = message(|event| bytes(event, 7, &message(|log| varint(log, 1, 1))));
        writer.event(Some(step), &start)?;
        Ok(writer)
    }

    /// Adds the scalars of a step.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn append(&mut self, row: &MetricsRow) -> io::Result<()> {
        let summary = message(|summary| {
            for (key, number) in row.metrics.iter() {
                let value = message(|value| {
                    bytes(value, 1, key.to_string().as_bytes());
                    field(value, 2, FIXED_32);
                    value.extend((number as f32).to_le_bytes());
                });
                bytes(summary, 1, &value);
            }
        });
        self.event(Some(row.step), &message(|event| bytes(event, 5, &summary)))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a record in one call, so that a killed process leaves at most one that is cut off, which readers ignore.
    fn event(&mut self, step: Option<usize>, rest: &[u8]) -> io::Result<()> {
        let content = message(|event| {
            field(event, 1, FIXED_64);
            event.extend(now().to_le_bytes());
            if let Some(step) = step {
                varint(event, 2, step as u64);
            }
            event.extend(rest);
        });
        let length = (content.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(content.len() + 16);
        record.extend(length);
        record.extend(masked_crc(&length).to_le_bytes());
        record.extend(&content);
        record.extend(masked_crc(&content).to_le_bytes());
        self.file.write_all(&record)
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Wire types of protocol buffers.
const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const LENGTH_DELIMITED: u64 = 2;
const FIXED_32: u64 = 5;

fn message(fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    fill(&mut out);
    out
}

/// The tag of a field.
fn field(out: &mut Vec<u8>, number: u64, wire: u64) {
    number_to(out, number << 3 | wire);
}

fn varint(out: &mut Vec<u8>, number: u64, value: u64) {
    field(out, number, VARINT);
    number_to(out, value);
}

fn bytes(out: &mut Vec<u8>, number: u64, value: &[u8]) {
    field(out, number, LENGTH_DELIMITED);
    number_to(out, value.len() as u64);
    out.extend(value);
}

/// Seven bits at a time, the lowest first.
fn number_to(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn masked_crc(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit by bit: records are short.
fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 }
        })
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::{Metrics, Quantity};

    fn row(step: usize, loss: f64) -> MetricsRow {
        let mut metrics = Metrics::from([(Quantity::LOSS, loss)]);
        metrics.set(Quantity::LAMBDA.between("helpful", "harmless"), 0.25);
        MetricsRow { phase: "mopo".into(), step, metrics }
    }

    #[test]
    fn checksums_have_the_published_values() {
        // RFC 3720, appendix B.4, and the usual check value.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn records_are_framed_and_a_second_file_follows_the_first() {
        let tmp = tempfile::tempdir().unwrap();
        let mut first = EventWriter::create(tmp.path(), 0).unwrap();
        first.append(&row(0, 1.5)).unwrap();
        let second = EventWriter::create(tmp.path(), 1).unwrap();
        assert!(first.path() < second.path());
        let file = std::fs::read(first.path()).unwrap();
        let (mut rest, mut n) = (&file[..], 0);
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let crc = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
            assert_eq!(crc(8), masked_crc(&rest[..8]));
            assert_eq!(crc(12 + length), masked_crc(&rest[12..12 + length]));
            (rest, n) = (&rest[16 + length..], n + 1);
        }
        assert_eq!(n, 3);
        assert!(file.windows(5).any(|w| w == [0x15, 0, 0, 0xc0, 0x3f]), "1.5 as a float");
    }

    #[test]
    fn tensorboard_reads_the_scalars_of_a_resumed_run() {
        let Some(python) = std::env::var_os("MOPO_REFERENCE_PYTHON") else {
            mopo_testkit::skip!("name a Python with tensorboard in MOPO_REFERENCE_PYTHON");
        };
        let found = Command::new(&python).args(["-c", "import tensorboard"]).output().unwrap();
        if !found.status.success() {
            mopo_testkit::skip!("the Python of MOPO_REFERENCE_PYTHON has no tensorboard");
        }
        let tmp = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(tmp.path(), 0).unwrap();
        for step in 0..4 {
            writer.append(&row(step, step as f64)).unwrap();
        }
        // Resumed from the checkpoint after two steps, and cut off within a record.
        let mut writer = EventWriter::create(tmp.path(), 2).unwrap();
        for step in 2..6 {
            writer.append(&row(step, 10.0 + step as f64)).unwrap();
        }
        let file = OpenOptions::new().write(true).open(writer.path()).unwrap();
        file.set_len(file.metadata().unwrap().len() - 5).unwrap();
        let script = "import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1]).Reload()
for tag in sorted(events.Tags()['scalars']):
    print(tag, [(e.step, e.value) for e in events.Scalars(tag)])";
        let said = Command::new(&python).args(["-c", script]).arg(tmp.path()).output().unwrap();
        let text = String::from_utf8_lossy(&said.stdout);
        let expected = "helpful/lambda/harmless [(0, 0.25), (1, 0.25), (2, 0.25), (3, 0.25), (4, 0.25)]\n\
                        loss [(0, 0.0), (1, 1.0), (2, 12.0), (3, 13.0), (4, 14.0)]\n";
        assert_eq!(text, expected, "{}", String::from_utf8_lossy(&said.stderr));
    }
}
