//! Parquet files, row by row through the record API: lists, structs and maps become JSON's.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use serde_json::{Map, Number, Value};

use super::EachRow;
use crate::{Error, Result};

/// Every row, numbered from 1 over all row groups.
pub(super) fn for_each_row(path: &Path, each: &mut EachRow<'_>) -> Result<()> {
    let damaged = |rows_read: usize, why: String| Error::Container {
        file: path.into(),
        rows_read,
        why: format!("the Parquet file cannot be read: {why}"),
        remedy: "fetch it again and compare its sha256 with the publisher's; if a compression is \
                 missing, write it with snappy, zstd, gzip or none"
            .into(),
    };
    let file = File::open(path).map_err(Error::io("read", path))?;
    let reader = unwound(|| SerializedFileReader::new(file)).map_err(|why| damaged(0, why))?;
    let promised = reader.metadata().file_metadata().num_rows();
    let mut n_read = 0;
    for group in 0..reader.num_row_groups() {
        let group = unwound(|| reader.get_row_group(group)).map_err(|why| damaged(n_read, why))?;
        let mut rows = unwound(|| RowIter::from_row_group(None, &*group))
            .map_err(|why| damaged(n_read, why))?;
        while let Some(row) =
            unwound(|| rows.next().transpose()).map_err(|why| damaged(n_read, why))?
        {
            n_read += 1;
            each(n_read, object(&row))?;
        }
    }
    if i64::try_from(n_read) != Ok(promised) {
        return Err(damaged(n_read, format!("its footer promises {promised} rows")));
    }
    Ok(())
}

/// The library panics on some damaged files, which for us are bad input like others.
fn unwound<T>(
    read: impl FnOnce() -> std::result::Result<T, ParquetError>,
) -> std::result::Result<T, String> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) => Err(panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_string()))
            .unwrap_or_else(|| "its structure is damaged".into())),
    }
}

fn object(row: &Row) -> super::RawRow {
    let mut columns = Map::new();
    for (name, field) in row.get_column_iter() {
        columns.insert(name.clone(), value(field).map_err(|why| format!("`{name}`: {why}"))?);
    }
    Ok(Value::Object(columns))
}

fn value(field: &Field) -> super::RawRow {
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(value) => Value::Bool(*value),
        Field::Byte(value) => Value::from(*value),
        Field::Short(value) => Value::from(*value),
        Field::Int(value) => Value::from(*value),
        Field::Long(value) => Value::from(*value),
        Field::UByte(value) => Value::from(*value),
        Field::UShort(value) => Value::from(*value),
        Field::UInt(value) => Value::from(*value),
        Field::ULong(value) => Value::from(*value),
        Field::Float16(value) => number(f64::from(f32::from(*value)))?,
        Field::Float(value) => number(f64::from(*value))?,
        Field::Double(value) => number(*value)?,
        Field::Str(value) => Value::String(value.clone()),
        // A writer that did not mark its text as such.
        Field::Bytes(value) => match std::str::from_utf8(value.data()) {
            Ok(text) => Value::String(text.into()),
            Err(error) => return Err(format!("bytes that are no UTF-8: {error}")),
        },
        Field::Group(row) => object(row)?,
        Field::ListInternal(list) => {
            Value::Array(list.elements().iter().map(value).collect::<std::result::Result<_, _>>()?)
        }
        Field::MapInternal(map) => {
            let mut entries = Map::new();
            for (key, field) in map.entries() {
                let key = match value(key)? {
                    Value::String(text) => text,
                    other => other.to_string(),
                };
                entries.insert(key, value(field)?);
            }
            Value::Object(entries)
        }
        // Decimals, dates and times: no reader has a use for them.
        other => Value::String(other.to_string()),
    })
}

fn number(value: f64) -> super::RawRow {
    // Publishers' tables have NaN where there is no number.
    if value.is_nan() {
        return Ok(Value::Null);
    }
    Number::from_f64(value).map(Value::Number).ok_or_else(|| format!("{value} is no number"))
}
