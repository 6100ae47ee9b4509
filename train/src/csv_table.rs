//! CSV files in memory.

/// The bytes of a CSV file with the columns `header`; each of `rows` must have as many fields.
pub(crate) fn to_csv<R: IntoIterator<Item = String>>(
    header: &[impl AsRef<str>],
    rows: impl Iterator<Item = R>,
) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(header.iter().map(AsRef::as_ref)).expect("writing to a vector does not fail");
    for row in rows {
        writer.write_record(row).expect("all rows have the length of the header");
    }
    writer.into_inner().expect("writing to a vector does not fail")
}
