//! Parquet files, row by row through the record API: lists, structs and maps become JSON values.

mod checks;
mod thrift;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::errors::ParquetError;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::TreeBuilder;
use parquet::record::{Field, Row as Record};
use parquet::schema::types::{SchemaDescriptor, Type};
use serde_json::{Map, Number, Value};

use super::{EachRow, Row};
use crate::guarded::guarded;
use crate::stream::{MAX_ROW_BYTES, too_long};
use crate::{Error, Result};

/// The key for a number or text of a Parquet file that JSON cannot represent.
const NOT_JSON: &str = "\u{0}not JSON";
/// Limits on the rows, and the bytes of their columns, that the library reads at once.
const BATCH_ROWS: usize = 1024;
const BATCH_BYTES: i64 = 16 << 20;

/// Every row, numbered from 1 over all row groups, with the existing ones of the columns `wanted`;
/// with all columns if none is wanted by name. Of a file without any of them only the first row.
pub(super) fn for_each_row(path: &Path, wanted: &[&str], each: &mut EachRow<'_>) -> Result<()> {
    let damaged = |rows_read: usize, why: String| Error::Container {
        file: path.into(),
        rows_read,
        why: format!("the Parquet file cannot be read: {why}"),
        remedy: "fetch it again and compare its sha256 with the publisher's; if a compression is \
                 missing, write it with snappy, zstd, gzip or none"
            .into(),
    };
    let file = File::open(path).map_err(Error::io("read", path))?;
    checks::check_schema(&file).map_err(|why| damaged(0, why))?;
    let pages = file.try_clone().map_err(Error::io("read", path))?;
    let reader = unwound(|| SerializedFileReader::new(file)).map_err(|why| damaged(0, why))?;
    let promised = reader.metadata().file_metadata().num_rows();
    let root = reader.metadata().file_metadata().schema_descr().root_schema();
    let (schema, names) = unwound(|| chosen(root, wanted)).map_err(|why| damaged(0, why))?;
    if schema.num_columns() == 0 && promised > 0 {
        // All rows are alike, and no data would end them where the footer promises too many.
        let values = Value::Object(Map::new());
        return each(1, Ok(Row::Columns { values, names: &names }));
    }
    let mut n_read = 0;
    for group in 0..reader.num_row_groups() {
        let fail = |why| damaged(n_read, why);
        let group = unwound(|| reader.get_row_group(group)).map_err(fail)?;
        let batch = unwound(|| Ok(check_group(&pages, group.metadata(), &schema)))
            .and_then(|found| found)
            .map_err(fail)?;
        let trees = TreeBuilder::new().with_batch_size(batch);
        let mut rows = unwound(|| trees.as_iter(schema.clone(), &*group)).map_err(fail)?;
        while let Some(row) =
            unwound(|| rows.next().transpose()).map_err(|why| damaged(n_read, why))?
        {
            n_read += 1;
            let mut n_bytes = 0;
            let values = object(&row, &mut n_bytes);
            if n_bytes > MAX_ROW_BYTES {
                return Err(too_long(path, n_read));
            }
            each(n_read, Ok(Row::Columns { values, names: &names }))?;
        }
    }
    if i64::try_from(n_read) != Ok(promised) {
        return Err(damaged(n_read, format!("its footer claims {promised} rows")));
    }
    Ok(())
}

/// The schema of the wanted columns, and the names of all.
fn chosen(
    root: &Type,
    wanted: &[&str],
) -> std::result::Result<(Arc<SchemaDescriptor>, Vec<String>), ParquetError> {
    let fields = root.get_fields();
    let mut names: Vec<String> = fields.iter().map(|field| field.name().into()).collect();
    names.sort();
    let is_wanted = |field: &&Arc<Type>| wanted.is_empty() || wanted.contains(&field.name());
    let fields = fields.iter().filter(is_wanted).cloned().collect();
    let schema = Type::group_type_builder(root.name()).with_fields(fields).build()?;
    Ok((Arc::new(SchemaDescriptor::new(Arc::new(schema))), names))
}

/// Checks the pages of the chosen columns. Returns how many rows may be read at once.
fn check_group(
    file: &File,
    group: &RowGroupMetaData,
    schema: &SchemaDescriptor,
) -> std::result::Result<usize, String> {
    let chosen = |path: &[String]| schema.columns().iter().any(|c| c.path().parts() == path);
    let mut n_bytes = 0i64;
    for column in group.columns() {
        if chosen(column.column_path().parts()) {
            checks::check_pages(file, column)?;
            n_bytes = n_bytes.saturating_add(column.uncompressed_size().max(0));
        }
    }
    let of_a_row = (n_bytes / group.num_rows().max(1)).max(1);
    Ok(usize::try_from(BATCH_BYTES / of_a_row).unwrap_or(1).clamp(1, BATCH_ROWS))
}

/// The library panics on some damaged files, which are bad input like any other.
fn unwound<T>(
    read: impl FnOnce() -> std::result::Result<T, ParquetError>,
) -> std::result::Result<T, String> {
    guarded("parquet", || read().map_err(|error| error.to_string()))
}

/// Adds the size of the row's texts to `n_bytes`.
fn object(row: &Record, n_bytes: &mut usize) -> Value {
    let mut columns = Map::new();
    for (name, field) in row.get_column_iter() {
        columns.insert(name.clone(), value(field, n_bytes));
    }
    Value::Object(columns)
}

fn value(field: &Field, n_bytes: &mut usize) -> Value {
    *n_bytes += match field {
        Field::Str(text) => text.len(),
        Field::Bytes(bytes) => bytes.len(),
        _ => size_of::<Value>(),
    };
    match field {
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
        Field::Float16(value) => number(f64::from(f32::from(*value))),
        Field::Float(value) => number(f64::from(*value)),
        Field::Double(value) => number(*value),
        Field::Str(value) => Value::String(value.clone()),
        // A writer that did not mark its text as such.
        Field::Bytes(value) => match std::str::from_utf8(value.data()) {
            Ok(text) => Value::String(text.into()),
            Err(error) => not_json(format!("invalid UTF-8: {error}")),
        },
        Field::Group(row) => object(row, n_bytes),
        Field::ListInternal(list) => {
            list.elements().iter().map(|field| value(field, n_bytes)).collect()
        }
        Field::MapInternal(map) => {
            let mut entries = Map::new();
            for (key, field) in map.entries() {
                let key = match value(key, n_bytes) {
                    Value::String(text) => text,
                    other => other.to_string(),
                };
                entries.insert(key, value(field, n_bytes));
            }
            Value::Object(entries)
        }
        // Decimals, dates and times, which no reader uses.
        other => Value::String(other.to_string()),
    }
}

fn number(value: f64) -> Value {
    // In published tables NaN means a missing number.
    if value.is_nan() {
        return Value::Null;
    }
    Number::from_f64(value)
        .map_or_else(|| not_json(format!("{value} is not a finite number")), Value::Number)
}

/// A placeholder for a value that matters only if it is read: an object, which no reader accepts as
/// a number or a text.
fn not_json(why: String) -> Value {
    Value::Object(Map::from_iter([(NOT_JSON.to_string(), Value::String(why))]))
}

/// Why a value cannot be represented in JSON.
pub(crate) fn not_json_reason(value: &Value) -> Option<&str> {
    value.as_object()?.get(NOT_JSON)?.as_str()
}
