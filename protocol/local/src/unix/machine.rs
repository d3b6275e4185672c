//! Which machine this is, for paths that several machines may share. It never changes while the machine runs.

/// The files with the id of this machine: systemd's, and the older one of D-Bus.
const FILES: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];

/// The id of this machine, if it has one: 32 hexadecimal digits.
pub fn machine_id() -> Option<String> {
    FILES.into_iter().find_map(|file| parse(&std::fs::read_to_string(file).ok()?))
}

/// On the first boot, or in a container image, the file may be empty or contain `uninitialized`.
fn parse(text: &str) -> Option<String> {
    let id = text.trim_end();
    (id.len() == 32 && id.bytes().all(|digit| digit.is_ascii_hexdigit())).then(|| id.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn only_an_id_is_an_id() {
        let id = "0123456789abcdef0123456789ABCDEF\n";
        assert_eq!(parse(id).as_deref(), Some("0123456789abcdef0123456789abcdef"));
        for none in ["", "\n", "uninitialized\n", &id[1..], "0123456789abcdef0123456789abcdeg"] {
            assert_eq!(parse(none), None, "{none:?}");
        }
    }
}
