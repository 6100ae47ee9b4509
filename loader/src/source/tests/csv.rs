use super::*;

/// A data set with `labels.csv` (columns `id,breed`, ids without extension) and images in `train/`.
struct CsvFixture(tempfile::TempDir);

impl CsvFixture {
    fn new(csv: impl AsRef<[u8]>, images: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("train")).unwrap();
        fs::write(root.path().join("labels.csv"), csv).unwrap();
        create_files(&root.path().join("train"), images);
        Self(root)
    }

    fn source(&self) -> CsvSource {
        CsvSource {
            csv: self.0.path().join("labels.csv"),
            images: self.0.path().join("train"),
            id: "id".into(),
            extension: "jpg".into(),
            fields: FieldNames { label: "breed".into(), group: None, split: None },
            follow_links: false,
        }
    }

    fn grouped(&self, column: &str) -> CsvSource {
        let source = self.source();
        CsvSource { fields: FieldNames { group: Some(column.into()), ..source.fields }, ..source }
    }

    fn read(&self) -> Dataset {
        read_sorted(&self.source()).unwrap()
    }

    fn error_message(&self) -> String {
        self.error_message_with(&self.source())
    }

    fn error_message_with(&self, source: &CsvSource) -> String {
        error_message(read_sorted(source), self.0.path())
    }
}

// effect: data.csv, data.images, data.class_order
#[test]
fn a_table_is_read_in_the_order_of_its_rows() {
    let table = CsvFixture::new(
        "id,breed\nf3,pug\na1,akita\nc2,pug\n",
        &["a1.jpg", "c2.jpg", "f3.jpg", "unlisted.jpg"],
    );
    let dataset = table.read();
    assert_eq!(ids(&dataset), ["f3.jpg", "a1.jpg", "c2.jpg"]);
    assert_eq!(dataset.classes.names(), ["akita", "pug"]);
    assert_eq!(dataset.labels(), [1, 0, 1]);
    assert_eq!(dataset.samples[0].image.file_path(), Some(table.0.path().join("train/f3.jpg").as_path()));

    let dataset = Dataset::from_raw(table.source().list().unwrap(), ClassOrder::Appearance).unwrap();
    assert_eq!(dataset.classes.names(), ["pug", "akita"]);
    assert_eq!(dataset.labels(), [0, 1, 0]);
}

// effect: data.extension
#[test]
fn the_extension_may_have_a_dot_or_be_part_of_the_id() {
    let table = CsvFixture::new("id,breed\na,x\nb,y\n", &["a.jpg", "b.jpg"]);
    let dotted = CsvSource { extension: ".jpg".into(), ..table.source() };
    assert_eq!(ids(&read_sorted(&dotted).unwrap()), ["a.jpg", "b.jpg"]);

    let table = CsvFixture::new("id,breed\na.png,x\nsub/b.JPG,y\n", &["a.png", "sub/b.JPG"]);
    for extension in ["", "."] {
        let source = CsvSource { extension: extension.into(), ..table.source() };
        assert_eq!(ids(&read_sorted(&source).unwrap()), ["a.png", "sub/b.JPG"]);
    }
}

// effect: data.id, data.label
#[test]
fn columns_are_found_by_name_in_any_order() {
    let table = CsvFixture::new("size,breed, id ,x\n1,pug,a,\n2,akita,b,\n", &["a.jpg", "b.jpg"]);
    assert_eq!(table.read().labels(), [1, 0]);
}

#[test]
fn tables_of_other_programs_are_read() {
    let expected = ["a, b.jpg", "c.jpg"];
    for csv in [
        "id,breed\n\"a, b\",pug\nc,akita\n",
        "\u{FEFF}id,breed\r\n\"a, b\",pug\r\nc,akita\r\n",
        "id,breed\n\"a, b\" , pug \n\n c ,akita",
        "id\tbreed\n\"a, b\"\tpug\nc\takita\n",
        "id;breed;\"a, note, on, it\"\n\"a, b\";pug;\nc;akita;\n",
    ] {
        assert_eq!(ids(&CsvFixture::new(csv, &expected).read()), expected, "{csv:?}");
    }
    let table = CsvFixture::new("id,breed\na,\"Hund, \"\"gross\"\"\"\nb,x\n", &["a.jpg", "b.jpg"]);
    assert_eq!(table.read().classes.names(), ["Hund, \"gross\"", "x"]);
}

#[test]
fn the_delimiter_is_a_tab_in_a_tsv_and_otherwise_the_most_frequent_in_the_header() {
    let table = CsvFixture::new("", &["a.jpg", "b.jpg"]);
    let read_as = |name: &str, text: &str| {
        fs::write(table.0.path().join(name), text).unwrap();
        let dataset = read_sorted(&CsvSource { csv: table.0.path().join(name), ..table.source() }).unwrap();
        (ids(&dataset).join(" "), dataset.classes.names().join(" "))
    };
    let expected = ("a.jpg b.jpg".to_owned(), "x y".to_owned());
    assert_eq!(read_as("t.TSV", "id\tbreed\tx,y,z\na\tx\t\nb\ty\t\n"), expected);
    // Ties: a comma before a semicolon before a tab.
    assert_eq!(read_as("a.csv", "id,breed;a\tb,c;d\te,breed\na,1,2,x\nb,1,2,y\n"), expected);
    assert_eq!(read_as("b.csv", "a\tb;id;breed\nc\td;a;x\nc\td;b;y\n"), expected);
}

#[test]
fn filtered_rows_keep_all_columns_and_the_first_row_of_each_image() {
    let table = CsvFixture::new("id;breed;age\n a ;x;1\nb;y;2\n./a;z;3\n../c;x;4\nc;\"x;y\";5\n", &[]);
    let written = |class_of: &dyn Fn(&str) -> Option<&'static str>| {
        let class_of = |image: &str| class_of(image).map(str::to_owned);
        String::from_utf8(table.source().filter_table(&class_of).unwrap().unwrap()).unwrap()
    };
    let own = |image: &str| match image {
        "a.jpg" => Some("x"),
        "b.jpg" => Some("y"),
        "c.jpg" => Some("x;y"),
        _ => None,
    };
    assert_eq!(written(&own), "id;breed;age\na;x;1\nb;y;2\nc;\"x;y\";5\n");
    assert_eq!(written(&|image| (image == "a.jpg").then_some("x")), "id;breed;age\na;x;1\n");
    let changed = |image: &str| if image == "c.jpg" { Some("z") } else { own(image) };
    assert_eq!(written(&changed), "id;breed;age\na;x;1\nb;y;2\nc;z;5\n");
    assert_eq!(written(&|_| None), "id;breed;age\n");
}

#[test]
fn a_table_is_read_without_empty_and_damaged_rows() {
    let table = CsvFixture::new("id, breed\n a,x\nb\n,\nc,\n", &[]);
    let texts = |texts: [&str; 2]| texts.map(str::to_owned).to_vec();
    let TableContents { columns, rows, unreadable, delimiter } = read_table(&table.source().csv).unwrap();
    assert_eq!((columns, delimiter), (texts(["id", "breed"]), b','));
    assert_eq!(rows, [texts(["a", "x"]), texts(["c", ""])]);
    assert_eq!(unreadable.len(), 1);
    assert!(unreadable[0].starts_with("line 3: the line has 1 field"), "{unreadable:?}");
}

#[test]
fn tables_of_spreadsheets_are_read() {
    let text = "id;breed\r\na;Bärenhund\r\nb;y\r\n";
    let utf16 = |bom: [u8; 2], to_bytes: fn(u16) -> [u8; 2]| {
        bom.into_iter().chain(text.encode_utf16().flat_map(to_bytes)).collect::<Vec<u8>>()
    };
    for bytes in [
        text.as_bytes().to_vec(),
        ["\u{feff}", text].concat().into_bytes(),
        ["sep=;\r\n", text].concat().into_bytes(),
        utf16([0xFF, 0xFE], u16::to_le_bytes),
        utf16([0xFE, 0xFF], u16::to_be_bytes),
    ] {
        let table = CsvFixture::new("", &["a.jpg", "b.jpg"]);
        fs::write(table.source().csv, &bytes).unwrap();
        let dataset = read_sorted(&table.source()).unwrap();
        assert_eq!(dataset.classes.names(), ["Bärenhund", "y"]);
    }
    // The line of the separator counts.
    let table = CsvFixture::new("sep=;\nid;breed\na;x\nb;\n", &["a.jpg", "b.jpg"]);
    assert!(table.error_message().contains("labels.csv: line 4: the column `breed` is empty"));
    let table = CsvFixture::new("", &["a.jpg"]);
    fs::write(table.source().csv, b"\xFF\xFEi\0d\0\x00\xD8").unwrap();
    assert!(table.error_message().contains("damaged UTF-16"));
}

#[test]
fn a_missing_column_is_reported_with_the_existing_ones() {
    let table = CsvFixture::new("id,Breed,size\na,x,1\n", &["a.jpg"]);
    assert_eq!(
        table.error_message(),
        "ROOT/labels.csv: there is no column `breed`: set `label` to one of the \
         columns id, Breed, size; did you mean `Breed`?"
    );
    let other = CsvSource {
        id: "filename".into(),
        fields: FieldNames { label: "Breed".into(), ..table.source().fields },
        ..table.source()
    };
    assert_eq!(
        table.error_message_with(&other),
        "ROOT/labels.csv: there is no column `filename`: set `id` to one of the \
         columns id, Breed, size"
    );
    let table = CsvFixture::new("id,breed,id\na,x,b\n", &["a.jpg"]);
    assert_eq!(table.error_message(), "ROOT/labels.csv: two columns are called `id`: rename one of them");
}

// effect: data.group
#[test]
fn groups_are_numbered_by_name_and_a_missing_group_is_an_error() {
    let table = CsvFixture::new(
        "id,breed,dog\na,x,rex\nb,y, bello \nc,x,rex\nd,y,10\n",
        &["a.jpg", "b.jpg", "c.jpg", "d.jpg"],
    );
    let grouped = table.grouped("dog");
    let groups = |source: &CsvSource| -> Vec<Option<u32>> {
        let data = read_sorted(source).unwrap();
        data.samples.into_iter().map(|sample| sample.group).collect()
    };
    assert_eq!(groups(&grouped), [Some(2), Some(1), Some(2), Some(0)]);
    assert_eq!(groups(&table.source()), [None; 4]);

    let other = table.grouped("dogs");
    assert_eq!(
        table.error_message_with(&other),
        "ROOT/labels.csv: there is no column `dogs`: set `group` to one of the \
         columns id, breed, dog; did you mean `dog`?"
    );
    let table = CsvFixture::new("id,breed,dog\na,x,rex\nb,y,\n", &["a.jpg", "b.jpg"]);
    let grouped = table.grouped("dog");
    assert_eq!(
        table.error_message_with(&grouped),
        "ROOT/labels.csv: line 3: the column `dog` is empty: add a value, or remove the line"
    );
}

// effect: split.column
#[test]
fn splits_are_read_from_their_column_and_other_words_are_errors() {
    let table = CsvFixture::new("id,breed,use\na,x,Train\nb,y,val\nc,x,TEST\n", &["a.jpg", "b.jpg", "c.jpg"]);
    let source = table.source();
    let source = CsvSource { fields: FieldNames { split: Some("use".into()), ..source.fields }, ..source };
    let splits: Vec<_> =
        read_sorted(&source).unwrap().samples.into_iter().map(|sample| sample.split).collect();
    assert_eq!(splits, [Some(Split::Train), Some(Split::Validation), Some(Split::Test)]);
    let table = CsvFixture::new("id,breed,use\na,x,later\nb,y,test\n", &["a.jpg", "b.jpg"]);
    let source = CsvSource { csv: table.source().csv, images: table.source().images, ..source };
    assert_eq!(
        table.error_message_with(&source),
        "ROOT/labels.csv: line 2: `use` is `later`: write train, validation or test"
    );
}

#[test]
fn errors_of_rows_do_not_affect_others_and_images_without_a_row_are_found() {
    let table =
        CsvFixture::new("id,breed\na,x\n,y\nb,\n../c,y\na,x\nd,y\ne,y\n", &["a.jpg", "d.jpg", "sub/f.jpg"]);
    let raw = table.source().list().unwrap();
    let ids: Vec<&str> = raw.samples.iter().map(|sample| sample.id.as_str()).collect();
    assert_eq!(ids, ["a.jpg", "d.jpg"]);
    assert_eq!(raw.errors.len(), 5);
    assert_eq!(table.source().unlabeled().unwrap(), ["sub/f.jpg"]);
}

#[test]
fn a_table_without_rows_or_header_is_an_error() {
    assert_eq!(
        CsvFixture::new("id,breed\n", &[]).error_message(),
        "ROOT/labels.csv has no rows: add one line for each photo after the line with the column names"
    );
    for csv in ["", "\n\n", "\u{FEFF}"] {
        assert_eq!(
            CsvFixture::new(csv, &[]).error_message(),
            "ROOT/labels.csv has no header: the first line of the file must name the columns, such as \
             id,label",
            "{csv:?}"
        );
    }
}

#[test]
fn parse_errors_name_the_line() {
    for csv in ["id,breed\na,x\nb,y,z\n", "id,breed\r\na,x\r\nb,y,z\r\n", "id,breed\n\nb,y,z\n"] {
        assert_eq!(
            CsvFixture::new(csv, &[]).error_message(),
            "ROOT/labels.csv: line 3: the line has 3 fields, but the header has 2: put double quotes around a \
             field that contains the separator",
            "{csv:?}"
        );
    }
    assert_eq!(
        CsvFixture::new(b"id,breed\na,caf\xE9\n", &[]).error_message(),
        "ROOT/labels.csv: line 2: the text is not UTF-8: save the file as UTF-8 (in a spreadsheet: as CSV UTF-8)"
    );
    assert_eq!(
        CsvFixture::new(b"id,ra\xE7a\na,x\n", &[]).error_message(),
        "ROOT/labels.csv: line 1 is not UTF-8 text: save the file as UTF-8 (in a spreadsheet: as CSV UTF-8)"
    );
}

#[test]
fn empty_fields_are_reported_with_their_line() {
    assert_eq!(
        CsvFixture::new("id,breed\na,x\n,y\n", &[]).error_message(),
        "ROOT/labels.csv: line 3: the column `id` is empty: add a value, or remove the line"
    );
    assert_eq!(
        CsvFixture::new("id,breed\r\na, \r\n", &[]).error_message(),
        "ROOT/labels.csv: line 2: the column `breed` is empty: add a value, or remove the line"
    );
    assert_eq!(
        CsvFixture::new("id,breed\n\"a\nb\",x\n\n\nc,\n", &[]).error_message(),
        "ROOT/labels.csv: line 6: the column `breed` is empty: add a value, or remove the line"
    );
}

#[test]
fn an_image_listed_twice_is_reported_with_both_lines() {
    for (csv, id) in [
        ("id,breed\na,x\nb,y\na,x\n", "a.jpg"),
        ("id,breed\na,x\nb,y\n./a,x\n", "a.jpg"),
        ("id,breed\nsub/a,x\nb,y\nsub//./a,x\n", "sub/a.jpg"),
    ] {
        assert_eq!(
            CsvFixture::new(csv, &["a.jpg", "b.jpg", "sub/a.jpg"]).error_message(),
            format!(
                "ROOT/labels.csv: `{id}` is on line 2 and on line 4: each photo may be listed only once; \
                 remove one of the two lines"
            )
        );
    }
}

#[test]
fn of_two_classes_of_an_image_none_is_used() {
    let table = CsvFixture::new("id,breed\na,x\nb,y\na,y\nc,x\n", &["a.jpg", "b.jpg", "c.jpg"]);
    assert_eq!(
        table.error_message(),
        "ROOT/labels.csv: `a.jpg` is on line 2 as `x` and on line 4 as `y`, `a.jpg` on line 4: a photo can have \
         only one class: remove the lines with the wrong class"
    );
    let mut raw = table.source().list().unwrap();
    raw.skip_errors();
    let dataset = Dataset::from_raw(raw, ClassOrder::Sorted).unwrap();
    assert_eq!(ids(&dataset), ["b.jpg", "c.jpg"]);
}

#[test]
fn an_absolute_id_may_be_in_the_folder_of_the_images() {
    let table = CsvFixture::new("", &["a.jpg", "sub/b.jpg"]);
    let folder = table.source().images;
    let rows = format!("id,breed\n{0}/a,x\n{0}/sub/b,y\n", folder.display());
    fs::write(table.source().csv, rows).unwrap();
    assert_eq!(ids(&table.read()), ["a.jpg", "sub/b.jpg"]);
    assert!(table.source().unlabeled().unwrap().is_empty());
    // Also through a link to the folder.
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("train", table.0.path().join("link")).unwrap();
        let linked = CsvSource { images: table.0.path().join("link"), ..table.source() };
        assert_eq!(ids(&read_sorted(&linked).unwrap()), ["a.jpg", "sub/b.jpg"]);
    }
}

#[test]
fn missing_images_are_counted_and_named() {
    let rows: String = (0..12).map(|i| format!("p{i},x\n")).collect();
    assert_eq!(
        CsvFixture::new(format!("id,breed\n{rows}a,y\n"), &["a.jpg", "p3.jpg"]).error_message(),
        "ROOT/labels.csv lists photos that are not in the folder ROOT/train (11): p0.jpg, p1.jpg, p2.jpg \
         and 8 more; add these photos or remove \
         their rows; if the photos are there, check `images` (the folder of the photos), `id` (the column of \
         file names) and `extension` (the extension that is added to \
         each name)"
    );
    for (id, image) in [("sub", "sub.jpg/x"), ("a.jpg/b", "a.jpg"), (".", "a.jpg")] {
        let message = CsvFixture::new(format!("id,breed\n{id},y\n"), &[image]).error_message();
        assert!(
            message.starts_with("ROOT/labels.csv lists photos that are not in the folder ROOT/train (1)"),
            "{id}: {message}"
        );
    }
}

#[test]
fn an_id_that_leaves_the_folder_is_an_error() {
    for (id, shown) in [
        ("../secret", "../secret.jpg"),
        ("sub/../../secret", "sub/../../secret.jpg"),
        ("sub/../a", "sub/../a.jpg"),
        ("/etc/passwd", "/etc/passwd.jpg"),
        ("a\0b", "a\\0b.jpg"),
    ] {
        assert_eq!(
            CsvFixture::new(format!("id,breed\na,x\n\"{id}\",y\n"), &["a.jpg", "sub/a.jpg", "../secret.jpg"])
                .error_message(),
            format!(
                "ROOT/labels.csv, line 3: the id `{shown}` points outside the folder ROOT/train: photos must \
                 be inside that folder; replace a link with a copy of what it points to (in a table of \
                 photos, write the file name of the copy), or allow links"
            )
        );
    }
}

#[test]
fn missing_files_and_folders_are_errors() {
    let table = CsvFixture::new("id,breed\na,x\n", &["a.jpg"]);
    let no_csv = CsvSource { csv: table.0.path().join("none.csv"), ..table.source() };
    assert_eq!(
        table.error_message_with(&no_csv),
        "failed to read the file or folder ROOT/none.csv: check that it exists and that you are allowed to \
         read it"
    );
    let no_images = CsvSource { images: table.0.path().join("none"), ..table.source() };
    assert_eq!(
        table.error_message_with(&no_images),
        "there is no folder ROOT/none: check the spelling of the path"
    );
    assert_eq!(
        table.error_message(),
        "ROOT/labels.csv has only one class, `x`: training needs at least two; add photos of a second class"
    );
}

#[cfg(unix)]
#[test]
fn links_out_of_the_folder_and_to_a_listed_image_are_errors() {
    use std::os::unix::fs::symlink;

    let table = CsvFixture::new("id,breed\na,x\nb,y\n", &["a.jpg", "../secret.jpg"]);
    let link = table.0.path().join("train/b.jpg");
    symlink("../secret.jpg", &link).unwrap();
    assert_eq!(
        table.error_message(),
        "ROOT/labels.csv, line 3: the id `b.jpg` points outside the folder ROOT/train: photos must be \
         inside that folder; replace a link with a copy of what it points to (in a table of photos, write \
         the file name of the copy), or allow links"
    );
    let following = CsvSource { follow_links: true, ..table.source() };
    assert_eq!(ids(&read_sorted(&following).unwrap()), ["a.jpg", "b.jpg"]);
    fs::remove_file(&link).unwrap();
    symlink("a.jpg", &link).unwrap();
    assert_eq!(
        table.error_message(),
        "ROOT/labels.csv, line 2: `a.jpg` and ROOT/labels.csv, line 3: `b.jpg` are the same file or folder, \
         reached through a link: each photo may be in the data only once; remove the link, not the photo"
    );
    fs::rename(table.0.path().join("train/a.jpg"), table.0.path().join("train/unlisted.jpg")).unwrap();
    fs::remove_file(&link).unwrap();
    symlink("unlisted.jpg", &link).unwrap();
    create_files(&table.0.path().join("train"), &["a.jpg"]);
    assert_eq!(ids(&table.read()), ["a.jpg", "b.jpg"]);
}
