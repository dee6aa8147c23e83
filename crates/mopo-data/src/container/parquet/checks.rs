//! Checks of a Parquet file's claims before memory is allocated: the library trusts the depth of
//! the schema and the sizes of pages.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt;

use flate2::bufread::MultiGzDecoder;
use parquet::basic::Compression;
use parquet::file::metadata::ColumnChunkMetaData;

use super::thrift::{Broken, Compact, I32, LIST, STRUCT};

/// Maximum number of levels of a schema; a list has two.
const MAX_DEPTH: usize = 100;
/// The footer describes every column of every row group; ten thousand of them take 10 MiB.
const MAX_FOOTER_BYTES: u64 = 256 << 20;
/// Writers aim at pages of 1 MiB.
const MAX_PAGE_BYTES: i64 = 256 << 20;
/// How many bytes of a page's header are read first, and at most.
const HEADER_BYTES: [u64; 2] = [1 << 12, 1 << 24];

type Result<T> = std::result::Result<T, String>;

/// Checks the schema in the footer: the number of levels, and that no column claims more children
/// than there are. The library checks whether it is a footer at all.
pub(super) fn check_schema(file: &File) -> Result<()> {
    let io = |error: std::io::Error| error.to_string();
    let n_bytes = file.metadata().map_err(io)?.len();
    let Some(tail_at) = n_bytes.checked_sub(8) else { return Ok(()) };
    let mut tail = [0; 8];
    file.read_exact_at(&mut tail, tail_at).map_err(io)?;
    let n_footer = u64::from(u32::from_le_bytes(std::array::from_fn(|i| tail[i])));
    let Some(at) = tail_at.checked_sub(n_footer) else { return Ok(()) };
    if n_footer > MAX_FOOTER_BYTES {
        return Err(format!(
            "its footer has {n_footer} bytes, more than the limit of {} MiB",
            MAX_FOOTER_BYTES >> 20
        ));
    }
    let mut footer = vec![0; n_footer as usize];
    file.read_exact_at(&mut footer, at).map_err(io)?;
    let mut schema = Schema::default();
    let read = Compact::new(&footer).fields(&mut |footer, number, kind| {
        // 2: the schema, with its elements in depth-first order.
        if (number, kind) != (2, LIST) {
            return Ok(false);
        }
        let (n_elements, kind) = footer.list()?;
        if kind != STRUCT {
            return Err(Broken::Invalid);
        }
        for _ in 0..n_elements {
            let mut n_parts = 0;
            footer.fields(&mut |element, number, kind| {
                // 5: how many of the following elements are children of this one.
                let found = (number, kind) == (5, I32);
                if found {
                    n_parts = element.int()?;
                }
                Ok(found)
            })?;
            schema.add(u64::try_from(n_parts).unwrap_or(0), n_elements);
        }
        Ok(true)
    });
    match (schema.wrong, read) {
        (Some(wrong), _) => Err(wrong),
        // More nested structures than Parquet has: the library's reader would recurse for each.
        (None, Err(Broken::Invalid)) => Err("its footer is damaged".into()),
        (None, _) => Ok(()),
    }
}

/// The position in a schema.
#[derive(Default)]
struct Schema {
    /// Number of remaining children of each open element.
    open: Vec<u64>,
    wrong: Option<String>,
}

impl Schema {
    fn add(&mut self, n_parts: u64, n_elements: u64) {
        if self.wrong.is_some() {
            return;
        }
        if n_parts > n_elements {
            self.wrong = Some(format!(
                "a column claims {n_parts} children, but the schema has {n_elements}"
            ));
            return;
        }
        if let Some(left) = self.open.last_mut() {
            *left -= 1;
        }
        if n_parts > 0 {
            self.open.push(n_parts);
        }
        while self.open.last() == Some(&0) {
            self.open.pop();
        }
        if self.open.len() > MAX_DEPTH {
            self.wrong = Some(format!("its columns are nested more than {MAX_DEPTH} levels deep"));
        }
    }
}

/// Checks the headers of a column's pages in one row group.
pub(super) fn check_pages(file: &File, column: &ColumnChunkMetaData) -> Result<()> {
    let n_file = file.metadata().map_err(|error| error.to_string())?.len();
    let (mut at, n_bytes) = column.byte_range();
    let end = at.checked_add(n_bytes).filter(|end| *end <= n_file);
    let Some(end) = end else {
        return Err(format!("a column claims {n_bytes} bytes at {at}, but the file has {n_file}"));
    };
    while at < end {
        let (page, n_header) = page_at(file, at, end)?;
        if page.unpacked > MAX_PAGE_BYTES {
            return Err(format!(
                "a page claims {} bytes, more than the limit of {} MiB: write the file with \
                 smaller pages",
                page.unpacked,
                MAX_PAGE_BYTES >> 20
            ));
        }
        let body = at + n_header;
        let Some(next) = u64::try_from(page.packed).ok().and_then(|n| body.checked_add(n)) else {
            return Err("a page claims a negative size".into());
        };
        if next > end {
            return Err(format!(
                "a page claims {} bytes, but {} are left",
                page.packed,
                end - body
            ));
        }
        // Every value takes at least one byte.
        if page.n_in_dictionary > page.unpacked.max(0) {
            return Err(format!(
                "a dictionary of {} bytes claims {} values",
                page.unpacked, page.n_in_dictionary
            ));
        }
        if matches!(column.compression(), Compression::GZIP(_)) {
            // The levels of a version 2 page are stored uncompressed before its values.
            let levels = u64::try_from(page.levels).unwrap_or(0).min(next - body);
            let promised = u64::try_from(page.unpacked).unwrap_or(0).saturating_sub(levels);
            check_gzip(file, body + levels, next, promised)?;
        }
        at = next;
    }
    Ok(())
}

/// What a page's header claims.
#[derive(Default)]
struct Page {
    unpacked: i64,
    packed: i64,
    n_in_dictionary: i64,
    /// Bytes of levels before the values.
    levels: i64,
}

/// The header of the page at `at`, and its length.
fn page_at(file: &File, at: u64, end: u64) -> Result<(Page, u64)> {
    for n_bytes in HEADER_BYTES {
        let mut bytes = vec![0; n_bytes.min(end - at) as usize];
        file.read_exact_at(&mut bytes, at).map_err(|error| error.to_string())?;
        let mut page = Page::default();
        let mut header = Compact::new(&bytes);
        let read = header.fields(&mut |header, number, kind| {
            match (number, kind) {
                (2, I32) => page.unpacked = header.int()?,
                (3, I32) => page.packed = header.int()?,
                // 7: a dictionary page; 1 in it: number of values.
                (7, STRUCT) => header.fields(&mut |header, number, kind| {
                    let found = (number, kind) == (1, I32);
                    if found {
                        page.n_in_dictionary = header.int()?;
                    }
                    Ok(found)
                })?,
                // 8: a data page of version 2; 5 and 6 in it: bytes of its levels.
                (8, STRUCT) => header.fields(&mut |header, number, kind| {
                    let found = matches!((number, kind), (5 | 6, I32));
                    if found {
                        page.levels = page.levels.saturating_add(header.int()?);
                    }
                    Ok(found)
                })?,
                _ => return Ok(false),
            }
            Ok(true)
        });
        match read {
            Ok(()) => return Ok((page, header.n_read() as u64)),
            Err(Broken::Short) if (bytes.len() as u64) < end - at => {}
            Err(_) => break,
        }
    }
    Err("the header of a page is damaged".into())
}

/// Gzip does not store a length that the library would respect. The library reports what is not
/// gzip.
fn check_gzip(file: &File, from: u64, to: u64, promised: u64) -> Result<()> {
    let mut bytes = vec![0; (to - from) as usize];
    file.read_exact_at(&mut bytes, from).map_err(|error| error.to_string())?;
    let mut unpacked = MultiGzDecoder::new(&bytes[..]).take(promised + 1);
    let n_unpacked = std::io::copy(&mut unpacked, &mut std::io::sink());
    if n_unpacked.is_ok_and(|n_unpacked| n_unpacked > promised) {
        return Err(format!("a page has more bytes than the {promised} it claims"));
    }
    Ok(())
}
