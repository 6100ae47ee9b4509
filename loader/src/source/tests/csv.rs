use super::*;

/// The tutorial's data set: `labels.csv` with `id,breed`, the photos in `train/`, their ending left out.
struct CsvFixture(tempfile::TempDir);

impl CsvFixture {
    fn new(csv: impl AsRef<[u8]>, photos: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("train")).unwrap();
        fs::write(root.path().join("labels.csv"), csv).unwrap();
        create_files(&root.path().join("train"), photos);
        Self(root)
    }

    fn source(&self) -> CsvSource {
        CsvSource {
            csv: self.0.path().join("labels.csv"),
            images: self.0.path().join("train"),
            id: "id".into(),
            extension: "jpg".into(),
            fields: FieldNames { label: "breed".into(), group: None, split: None },
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
fn the_tutorials_table_is_read_in_the_order_of_its_rows() {
    let table = CsvFixture::new(
        "id,breed\nf3,pug\na1,akita\nc2,pug\n",
        &["a1.jpg", "c2.jpg", "f3.jpg", "unlisted.jpg"],
    );
    let dataset = table.read();
    assert_eq!(ids(&dataset), ["f3.jpg", "a1.jpg", "c2.jpg"]);
    assert_eq!(dataset.classes.names(), ["akita", "pug"]);
    assert_eq!(dataset.labels(), [1, 0, 1]);
    assert_eq!(dataset.samples[0].image.file_path(), Some(table.0.path().join("train/f3.jpg").as_path()));

    let dataset = Dataset::read(&table.source(), ClassOrder::Appearance).unwrap();
    assert_eq!(dataset.classes.names(), ["pug", "akita"]);
    assert_eq!(dataset.labels(), [0, 1, 0]);
}

// effect: data.extension
#[test]
fn the_extension_may_have_its_dot_or_stand_in_the_id() {
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
fn columns_are_found_by_name_wherever_they_stand() {
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
fn fields_end_at_a_tab_in_a_tsv_and_else_at_what_the_header_has_most_of() {
    let table = CsvFixture::new("", &["a.jpg", "b.jpg"]);
    let read_as = |name: &str, text: &str| {
        fs::write(table.0.path().join(name), text).unwrap();
        let dataset = read_sorted(&CsvSource { csv: table.0.path().join(name), ..table.source() }).unwrap();
        (ids(&dataset).join(" "), dataset.classes.names().join(" "))
    };
    let expected = ("a.jpg b.jpg".to_owned(), "x y".to_owned());
    assert_eq!(read_as("t.TSV", "id\tbreed\tx,y,z\na\tx\t\nb\ty\t\n"), expected);
    // As many of each: a comma before a semicolon before a tab.
    assert_eq!(read_as("a.csv", "id,breed;a\tb,c;d\te,breed\na,1,2,x\nb,1,2,y\n"), expected);
    assert_eq!(read_as("b.csv", "a\tb;id;breed\nc\td;a;x\nc\td;b;y\n"), expected);
}

#[test]
fn a_table_of_some_of_its_photos_keeps_their_first_rows_and_all_columns() {
    let table = CsvFixture::new("id;breed;age\n a ;x;1\nb;y;2\n./a;z;3\n../c;x;4\nc;\"x;y\";5\n", &[]);
    let only =
        |keeps: &dyn Fn(&str) -> bool| String::from_utf8(table.source().filter_rows(keeps).unwrap()).unwrap();
    assert_eq!(only(&|_| true), "id;breed;age\na;x;1\nb;y;2\nc;\"x;y\";5\n");
    assert_eq!(only(&|photo| photo == "a.jpg"), "id;breed;age\na;x;1\n");
    assert_eq!(only(&|_| false), "id;breed;age\n");
}

#[test]
fn the_head_of_a_table_is_its_columns_and_first_row() {
    let table = CsvFixture::new("id, breed\n a,x\nb\n", &[]);
    let head = read_table_head(&table.source().csv).unwrap();
    assert_eq!(
        head,
        TableHead { columns: vec!["id".into(), "breed".into()], first_row: vec!["a".into(), "x".into()] }
    );
}

#[test]
fn a_column_that_is_not_there_is_named_with_those_that_are() {
    let table = CsvFixture::new("id,Breed,size\na,x,1\n", &["a.jpg"]);
    assert_eq!(
        table.error_message(),
        "ROOT/labels.csv has no column `breed` (`data.label`); its columns: id, Breed, size; did you mean `Breed`?"
    );
    let other = CsvSource {
        id: "filename".into(),
        fields: FieldNames { label: "Breed".into(), ..table.source().fields },
        ..table.source()
    };
    assert_eq!(
        table.error_message_with(&other),
        "ROOT/labels.csv has no column `filename` (`data.id`); its columns: id, Breed, size"
    );
    let table = CsvFixture::new("id,breed,id\na,x,b\n", &["a.jpg"]);
    assert_eq!(table.error_message(), "ROOT/labels.csv: the header has the column `id` twice");
}

// effect: data.group
#[test]
fn groups_are_numbered_by_name_and_a_photo_without_one_is_refused() {
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
        "ROOT/labels.csv has no column `dogs` (`data.group`); its columns: id, breed, dog; did you mean `dog`?"
    );
    let table = CsvFixture::new("id,breed,dog\na,x,rex\nb,y,\n", &["a.jpg", "b.jpg"]);
    let grouped = table.grouped("dog");
    assert_eq!(table.error_message_with(&grouped), "ROOT/labels.csv, line 3: `dog` is empty");
}

// effect: split.column
#[test]
fn parts_are_read_from_their_column_and_another_word_is_refused() {
    let table = CsvFixture::new("id,breed,use\na,x,Train\nb,y,val\nc,x,TEST\n", &["a.jpg", "b.jpg", "c.jpg"]);
    let source = table.source();
    let source = CsvSource { fields: FieldNames { split: Some("use".into()), ..source.fields }, ..source };
    let parts: Vec<_> =
        read_sorted(&source).unwrap().samples.into_iter().map(|sample| sample.split).collect();
    assert_eq!(parts, [Some(Split::Train), Some(Split::Validation), Some(Split::Test)]);
    let table = CsvFixture::new("id,breed,use\na,x,later\nb,y,test\n", &["a.jpg", "b.jpg"]);
    let source = CsvSource { csv: table.source().csv, images: table.source().images, ..source };
    assert_eq!(
        table.error_message_with(&source),
        "ROOT/labels.csv: line 2: `use` is `later`: a part is called train, validation or test"
    );
}

#[test]
fn what_is_wrong_with_rows_leaves_the_others_and_photos_without_a_row_are_found() {
    let table =
        CsvFixture::new("id,breed\na,x\n,y\nb,\n../c,y\na,x\nd,y\ne,y\n", &["a.jpg", "d.jpg", "sub/f.jpg"]);
    let listing = table.source().list().unwrap();
    let ids: Vec<&str> = listing.samples.iter().map(|entry| entry.id.as_str()).collect();
    assert_eq!(ids, ["a.jpg", "d.jpg"]);
    assert_eq!(listing.errors.len(), 5);
    assert_eq!(table.source().unlabeled().unwrap(), ["sub/f.jpg"]);
}

#[test]
fn a_table_without_rows_or_header_says_so() {
    assert_eq!(
        CsvFixture::new("id,breed\n", &[]).error_message(),
        "ROOT/labels.csv has no rows: every line below the header is a photo"
    );
    for csv in ["", "\n\n", "\u{FEFF}"] {
        assert_eq!(
            CsvFixture::new(csv, &[]).error_message(),
            "ROOT/labels.csv has no header: its first line names the columns",
            "{csv:?}"
        );
    }
}

#[test]
fn a_table_that_cannot_be_parsed_is_named_with_the_line() {
    for csv in ["id,breed\na,x\nb,y,z\n", "id,breed\r\na,x\r\nb,y,z\r\n", "id,breed\n\nb,y,z\n"] {
        assert_eq!(
            CsvFixture::new(csv, &[]).error_message(),
            "ROOT/labels.csv: line 3 has 3 fields, the header 2",
            "{csv:?}"
        );
    }
    assert_eq!(
        CsvFixture::new(b"id,breed\na,caf\xE9\n", &[]).error_message(),
        "ROOT/labels.csv: line 2 is not UTF-8: save the table as UTF-8"
    );
    assert_eq!(
        CsvFixture::new(b"id,ra\xE7a\na,x\n", &[]).error_message(),
        "ROOT/labels.csv: line 1 is not UTF-8: save the table as UTF-8"
    );
}

#[test]
fn an_empty_field_is_named_with_its_line() {
    assert_eq!(
        CsvFixture::new("id,breed\na,x\n,y\n", &[]).error_message(),
        "ROOT/labels.csv, line 3: `id` is empty"
    );
    assert_eq!(
        CsvFixture::new("id,breed\r\na, \r\n", &[]).error_message(),
        "ROOT/labels.csv, line 2: `breed` is empty"
    );
    assert_eq!(
        CsvFixture::new("id,breed\n\"a\nb\",x\n\n\nc,\n", &[]).error_message(),
        "ROOT/labels.csv, line 6: `breed` is empty"
    );
}

#[test]
fn a_photo_listed_twice_is_named_with_both_lines() {
    for (csv, id) in [
        ("id,breed\na,x\nb,y\na,y\n", "a.jpg"),
        ("id,breed\na,x\nb,y\n./a,x\n", "a.jpg"),
        ("id,breed\nsub/a,x\nb,y\nsub//./a,x\n", "sub/a.jpg"),
    ] {
        assert_eq!(
            CsvFixture::new(csv, &["a.jpg", "b.jpg", "sub/a.jpg"]).error_message(),
            format!(
                "ROOT/labels.csv: `{id}` stands in line 2 and again in line 4: every photo may be listed once"
            )
        );
    }
}

#[test]
fn photos_that_are_not_there_are_counted_and_named() {
    let rows: String = (0..12).map(|i| format!("p{i},x\n")).collect();
    assert_eq!(
        CsvFixture::new(format!("id,breed\n{rows}a,y\n"), &["a.jpg", "p3.jpg"]).error_message(),
        "ROOT/labels.csv lists photos that are not in ROOT/train (11): p0.jpg, p1.jpg, p2.jpg, p4.jpg, p5.jpg, p6.jpg, \
         p7.jpg, p8.jpg, p9.jpg, p10.jpg and 1 more; check `data.images`, `data.id` and `data.extension`"
    );
    for (id, photo) in [("sub", "sub.jpg/x"), ("a.jpg/b", "a.jpg"), (".", "a.jpg")] {
        let message = CsvFixture::new(format!("id,breed\n{id},y\n"), &[photo]).error_message();
        assert!(
            message.starts_with("ROOT/labels.csv lists photos that are not in ROOT/train (1)"),
            "{id}: {message}"
        );
    }
}

#[test]
fn an_id_that_leaves_the_folder_is_refused() {
    for (id, shown) in [
        ("../secret", "../secret"),
        ("sub/../../secret", "sub/../../secret"),
        ("sub/../a", "sub/../a"),
        ("/etc/passwd", "/etc/passwd"),
        ("a\0b", "a\\0b"),
    ] {
        assert_eq!(
            CsvFixture::new(format!("id,breed\na,x\n\"{id}\",y\n"), &["a.jpg", "sub/a.jpg", "../secret.jpg"])
                .error_message(),
            format!(
                "ROOT/labels.csv, line 3: the id `{shown}` leads out of ROOT/train: photos must lie below that folder"
            )
        );
    }
}

#[test]
fn missing_files_and_folders_are_named() {
    let table = CsvFixture::new("id,breed\na,x\n", &["a.jpg"]);
    let no_csv = CsvSource { csv: table.0.path().join("none.csv"), ..table.source() };
    assert_eq!(table.error_message_with(&no_csv), "failed to read ROOT/none.csv");
    let no_images = CsvSource { images: table.0.path().join("none"), ..table.source() };
    assert_eq!(table.error_message_with(&no_images), "there is no folder ROOT/none");
    assert_eq!(
        table.error_message(),
        "ROOT/labels.csv has one class only, `x`: there is nothing to tell it from"
    );
}

#[cfg(unix)]
#[test]
fn links_out_of_the_folder_and_to_a_photo_that_is_listed_are_refused() {
    use std::os::unix::fs::symlink;

    let table = CsvFixture::new("id,breed\na,x\nb,y\n", &["a.jpg", "../secret.jpg"]);
    let link = table.0.path().join("train/b.jpg");
    symlink("../secret.jpg", &link).unwrap();
    assert_eq!(
        table.error_message(),
        "ROOT/labels.csv, line 3: the id `b` leads out of ROOT/train: photos must lie below that folder"
    );
    fs::remove_file(&link).unwrap();
    symlink("a.jpg", &link).unwrap();
    assert_eq!(
        table.error_message(),
        "ROOT/labels.csv, line 2: `a.jpg` and ROOT/labels.csv, line 3: `b.jpg` are the same by a link: every photo may be \
         in the data once, remove one of them"
    );
    fs::rename(table.0.path().join("train/a.jpg"), table.0.path().join("train/unlisted.jpg")).unwrap();
    fs::remove_file(&link).unwrap();
    symlink("unlisted.jpg", &link).unwrap();
    create_files(&table.0.path().join("train"), &["a.jpg"]);
    assert_eq!(ids(&table.read()), ["a.jpg", "b.jpg"]);
}
