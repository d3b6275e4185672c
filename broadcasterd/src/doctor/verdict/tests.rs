//! Invented facts, and what is to be said of them.

use super::*;
use crate::doctor::facts::{
    Disk, Environment, FileId, InPath, Limits, Notifications, PROGRAM_NAME, ProgramFile, Programs, Service, Stats,
    Trouble,
};
use crate::doctor::parse::{Login, Unit};
use std::path::PathBuf;
use std::time::Duration;
use system_broadcaster::Origin;

const RUN_USER: &str = "/run/user/1000/broadcaster/bus.sock";
const STATE: &str = "/home/u/.local/state/broadcaster/bus.sock";

/// What makes a difference.
type Change<T> = fn(&mut T);

fn there(kind: Kind, mode: u32) -> Node {
    Node::There { kind, owner: 1000, mode }
}

fn nothing_at(socket: &str, origin: Origin) -> Place {
    let look = Look {
        directory: Node::Missing,
        parent: there(Kind::Directory, 0o700),
        disk: Some(Disk {
            directory: "/run/user/1000".into(),
            read_only: false,
            full: false,
            out_of_inodes: false,
            writable: true,
        }),
        file: Node::Missing,
        listens: Some(false),
        lock: Lock::NoFile,
    };
    Place { socket: socket.into(), origin, look: Some(look), asked: Asked::No, stats: None }
}

fn holder(pid: u32) -> Holder {
    Holder {
        pid,
        name: Some(PROGRAM_NAME.to_owned()),
        exe: Some("/usr/bin/broadcasterd".into()),
        exe_is_gone: false,
        state: Some('S'),
        open_files: Some((524_288, 524_288)),
        elsewhere: Some(false),
    }
}

fn served_at(socket: &str, origin: Origin, pid: u32) -> Place {
    let mut place = nothing_at(socket, origin);
    place.look = place.look.map(|look| Look {
        directory: there(Kind::Directory, 0o700),
        file: there(Kind::Socket, 0o600),
        listens: Some(true),
        lock: Lock::Held { id: FileId { device: 45, inode: pid.into() }, holders: vec![holder(pid)] },
        ..look
    });
    place.asked = Asked::Answered {
        version: "0.2.0".to_owned(),
        pid,
        protocol: 1,
        uptime: Duration::from_secs(3725),
        connections: 7,
        held_bytes: 4096,
        held_bytes_max: 268_435_456,
    };
    let path = PathBuf::from(socket).with_file_name("stats.sock");
    place.stats = Some(Stats { path, file: there(Kind::Socket, 0o600), connects: Ok(()) });
    place
}

/// A user of a desktop whose clients have started the daemon.
pub(in crate::doctor) fn healthy() -> Facts {
    Facts {
        version: "0.2.0".to_owned(),
        euid: 1000,
        socket_given: false,
        path_bytes_max: 107,
        places: Ok(vec![served_at(RUN_USER, Origin::RunUser, 812), nothing_at(STATE, Origin::State)]),
        service: Some(Service { login: Some(Login { name: "u".to_owned(), sessions: 1 }), ..Service::default() }),
        limits: Limits { open_files: Some((1024, 524_288)), inotify_instances_max: Some(128), no_thread: false },
        programs: Some(Programs {
            this: Some("/usr/bin/broadcasterd".into()),
            variable: None,
            in_path: vec![InPath {
                path: "/usr/bin/broadcasterd".into(),
                file: ProgramFile::This,
                version: Some("0.2.0".to_owned()),
            }],
            no_autostart: false,
        }),
        environment: Some(Environment {
            uid: 1000,
            home: Some("/home/u".into()),
            runtime_dir: Some(("/run/user/1000".into(), there(Kind::Directory, 0o700))),
            run_user: ("/run/user/1000".into(), there(Kind::Directory, 0o700)),
            sudo_user: None,
            walls: vec![],
        }),
        notifications: None,
    }
}

/// The same, and somebody has sent the daemon SIGSTOP.
pub(in crate::doctor) fn stopped() -> Facts {
    let mut facts = healthy();
    let place = place(&mut facts);
    place.asked = silent();
    holder_of(place).state = Some('T');
    facts
}

fn silent() -> Asked {
    Asked::Failed { trouble: Trouble::Silent, sentence: "the daemon has not answered".to_owned() }
}

/// The same user before anybody has used the bus.
fn unused() -> Facts {
    let mut facts = healthy();
    facts.places = Ok(vec![nothing_at(RUN_USER, Origin::RunUser), nothing_at(STATE, Origin::State)]);
    facts
}

fn place(facts: &mut Facts) -> &mut Place {
    &mut facts.places.as_mut().expect("there are places")[0]
}

fn look(facts: &mut Facts) -> &mut Look {
    place(facts).look.as_mut().expect("it was looked at")
}

fn holder_of(place: &mut Place) -> &mut Holder {
    match &mut place.look.as_mut().expect("it was looked at").lock {
        Lock::Held { holders, .. } => &mut holders[0],
        lock => panic!("it is {lock:?}"),
    }
}

fn unit(load: &str, active: &str) -> Unit {
    Unit { load: load.to_owned(), active: active.to_owned(), enabled: "enabled".to_owned(), ..Unit::default() }
}

fn activated(facts: &mut Facts) -> &mut Service {
    let known = facts.service.as_mut().expect("it is known");
    known.socket = Unit { listens: vec![RUN_USER.into()], ..unit("loaded", "active") };
    known.service = Unit { program: Some("/usr/bin/broadcasterd".into()), ..unit("loaded", "inactive") };
    known.program = Some(ProgramFile::This);
    known
}

/// The worst finding of the check.
fn worst(facts: &Facts, check: Check) -> (Level, String) {
    let findings = findings(facts);
    let of_check = findings.into_iter().filter(|finding| finding.check == check);
    let worst = of_check.max_by_key(|finding| finding.level).expect("each check finds something");
    assert_eq!(worst.level == Level::Ok, worst.remedy.is_none(), "{worst:?}");
    (worst.level, format!("{} -> {}", worst.finding, worst.remedy.unwrap_or_default()))
}

#[track_caller]
fn assert_finds(facts: &Facts, check: Check, level: Level, words: &[&str]) {
    let (found, text) = worst(facts, check);
    assert_eq!(found, level, "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
}

fn said(facts: &Facts) -> String {
    sentence(facts, &findings(facts))
}

#[test]
fn a_healthy_bus_is_well() {
    let facts = healthy();
    assert!(findings(&facts).iter().all(|finding| finding.level == Level::Ok), "{:?}", findings(&facts));
    assert_eq!(said(&facts), "All is well: process 812 serves the bus.");
    assert_finds(&facts, Check::Socket, Level::Ok, &[RUN_USER, "35 of 107 bytes", STATE, "nothing there"]);
    assert_finds(&facts, Check::Daemon, Level::Ok, &["process 812", "0.2.0", "1h 2m 5s", "connections: 7"]);
}

#[test]
fn a_bus_that_nobody_uses_is_no_trouble() {
    let facts = unused();
    assert_finds(&facts, Check::Daemon, Level::Note, &["not running", "the first client"]);
    assert_finds(&facts, Check::Directory, Level::Ok, &["does not exist yet"]);
    assert_eq!(said(&facts), "Nothing is wrong: no daemon runs, and the first client brings one up.");
    let mut forbidden = unused();
    forbidden.programs.as_mut().expect("known").no_autostart = true;
    assert_finds(&forbidden, Check::Daemon, Level::Warning, &["BROADCASTER_NO_AUTOSTART"]);
}

#[test]
fn a_stopped_daemon_is_named_with_the_signal_that_continues_it() {
    let facts = stopped();
    assert_finds(
        &facts,
        Check::Daemon,
        Level::Error,
        &["812", "stopped (state T)", "kill -CONT 812", "kill -KILL 812"],
    );
    assert!(said(&facts).contains("cause of trouble is the daemon: process 812"), "{}", said(&facts));
}

#[test]
fn a_daemon_that_hangs_is_told_apart_from_one_that_waits_for_a_device() {
    let mut facts = stopped();
    holder_of(place(&mut facts)).state = Some('R');
    assert_finds(&facts, Check::Daemon, Level::Error, &["hangs (state R)", "`kill 812`"]);
    activated(&mut facts).service.main_pid = Some(812);
    assert_finds(&facts, Check::Daemon, Level::Error, &["systemctl --user restart"]);
    holder_of(place(&mut facts)).state = Some('D');
    assert_finds(&facts, Check::Daemon, Level::Error, &["no signal ends"]);
}

#[test]
fn a_host_that_hangs_is_a_program_that_kill_would_end() {
    let mut facts = stopped();
    let holder = holder_of(place(&mut facts));
    (holder.name, holder.exe) = (Some("editor".to_owned()), Some("/usr/bin/editor".into()));
    assert_finds(&facts, Check::Daemon, Level::Error, &["(editor)", "ends the whole program"]);
    assert_finds(&facts, Check::Lock, Level::Note, &["hosts the bus itself"]);
}

#[test]
fn a_holder_that_can_not_be_seen_is_still_a_holder() {
    let mut facts = stopped();
    look(&mut facts).lock = Lock::Held { id: FileId { device: 1, inode: 1 }, holders: vec![] };
    assert_finds(&facts, Check::Lock, Level::Note, &["can not be seen"]);
    assert_finds(&facts, Check::Daemon, Level::Error, &["a process that can not be seen", "where it runs"]);
}

#[test]
fn other_answers_keep_their_own_words() {
    for trouble in [Trouble::OtherUser, Trouble::NotADaemon, Trouble::Refused, Trouble::Other] {
        let mut facts = healthy();
        place(&mut facts).asked = Asked::Failed { trouble, sentence: "what the client says".to_owned() };
        assert_finds(&facts, Check::Daemon, Level::Error, &["what the client says"]);
    }
    let mut facts = healthy();
    place(&mut facts).asked = Asked::Failed { trouble: Trouble::NobodyListens, sentence: String::new() };
    assert_finds(&facts, Check::Daemon, Level::Error, &["812", "nobody listens"]);
}

#[test]
fn another_version_is_noted_and_a_full_daemon_warned_of() {
    let mut facts = healthy();
    facts.version = "0.3.0".to_owned();
    assert_finds(&facts, Check::Daemon, Level::Note, &["version 0.2.0", "this program is version 0.3.0"]);
    for (at, level) in [(3686, Level::Ok), (3687, Level::Warning)] {
        let mut facts = healthy();
        if let Asked::Answered { connections, .. } = &mut place(&mut facts).asked {
            *connections = at;
        }
        assert_finds(&facts, Check::Daemon, level, &[&at.to_string(), if level == Level::Ok { "" } else { "4096" }]);
    }
    let mut facts = healthy();
    if let Asked::Answered { held_bytes, held_bytes_max, .. } = &mut place(&mut facts).asked {
        *held_bytes = *held_bytes_max;
    }
    assert_finds(&facts, Check::Daemon, Level::Warning, &["do not read"]);
}

#[test]
fn no_place_is_an_error_and_the_other_checks_go_on() {
    let mut facts = healthy();
    facts.places = Err("the socket path has 200 bytes".to_owned());
    assert_finds(&facts, Check::Socket, Level::Error, &["200 bytes", "at most 107 bytes"]);
    assert_finds(&facts, Check::Program, Level::Ok, &[]);
    facts.places = Ok(vec![]);
    assert_eq!(said(&facts), "Nothing is wrong: no daemon runs, and the first client brings one up.");
}

#[test]
fn a_directory_that_others_can_write_to_is_an_error_if_there_is_no_other() {
    let mut facts = unused();
    look(&mut facts).directory = there(Kind::Directory, 0o777);
    assert_finds(&facts, Check::Directory, Level::Warning, &["mode 0777", "chmod 0700 /run/user/1000/broadcaster"]);
    facts.places.as_mut().expect("places").truncate(1);
    assert_finds(&facts, Check::Directory, Level::Error, &["mode 0777"]);
    assert!(said(&facts).contains("the directory"), "{}", said(&facts));
}

#[test]
fn directories_that_can_not_be_used_are_told_apart() {
    let cases: [(Change<Look>, &str); 8] = [
        (|look| look.directory = Node::There { kind: Kind::Directory, owner: 7, mode: 0o700 }, "belongs to uid 7"),
        (|look| look.directory = there(Kind::Link, 0o777), "is not a directory"),
        (|look| look.directory = Node::Unknown("permission denied".to_owned()), "permission denied"),
        (|look| disk(look).read_only = true, "read-only"),
        (|look| disk(look).full = true, "no space left"),
        (|look| disk(look).out_of_inodes = true, "no room for more files"),
        (|look| disk(look).writable = false, "can not write"),
        (|look| (look.directory, disk(look).writable) = (there(Kind::Directory, 0o500), false), "chmod 0700"),
    ];
    for (change, words) in cases {
        let mut facts = unused();
        facts.places.as_mut().expect("places").truncate(1);
        change(look(&mut facts));
        assert_finds(&facts, Check::Directory, Level::Error, &[words]);
    }
    let mut facts = healthy();
    look(&mut facts).parent = there(Kind::Directory, 0o777);
    assert_finds(&facts, Check::Directory, Level::Warning, &["around", "chmod go-w /run/user/1000"]);
    look(&mut facts).parent = there(Kind::Directory, 0o1777);
    assert_finds(&facts, Check::Directory, Level::Ok, &[]);
}

fn disk(look: &mut Look) -> &mut Disk {
    look.disk.as_mut().expect("it is known")
}

#[test]
fn what_another_user_serves_is_not_to_be_ended() {
    let mut facts = healthy();
    place(&mut facts).asked = Asked::No;
    look(&mut facts).file = Node::There { kind: Kind::Socket, owner: 7, mode: 0o600 };
    assert_finds(&facts, Check::Daemon, Level::Error, &["uid 7", "a place of your own"]);
    assert!(!worst(&facts, Check::Daemon).1.contains("kill"));
}

#[test]
fn a_file_system_that_hangs_is_named() {
    let mut facts = unused();
    facts.places.as_mut().expect("places").truncate(1);
    place(&mut facts).look = None;
    assert_finds(&facts, Check::File, Level::Error, &["hangs", RUN_USER]);
}

#[test]
fn a_socket_is_stale_only_if_nobody_serves_it() {
    let mut facts = unused();
    let look_ = look(&mut facts);
    (look_.directory, look_.file) = (there(Kind::Directory, 0o700), there(Kind::Socket, 0o600));
    look_.lock = Lock::Free;
    assert_finds(&facts, Check::File, Level::Note, &["is stale", "the next daemon removes it"]);
    look(&mut facts).listens = Some(true);
    assert_finds(&facts, Check::File, Level::Error, &["does not hold the lock", "ss -xlp"]);
    activated(&mut facts);
    assert_finds(&facts, Check::File, Level::Ok, &["the service manager holds"]);
    assert_finds(&facts, Check::Daemon, Level::Ok, &["starts it at the first connect"]);
}

#[test]
fn what_is_no_socket_of_ours_is_in_the_way() {
    for (node, words) in [
        (there(Kind::File, 0o600), "a regular file"),
        (there(Kind::Link, 0o777), "a symbolic link"),
        (there(Kind::Directory, 0o700), "a directory"),
        (Node::There { kind: Kind::Socket, owner: 7, mode: 0o600 }, "a socket of uid 7"),
    ] {
        let mut facts = unused();
        facts.places.as_mut().expect("places").truncate(1);
        look(&mut facts).file = node;
        assert_finds(&facts, Check::File, Level::Error, &[words, RUN_USER]);
        assert!(said(&facts).contains("the file: "), "{}", said(&facts));
    }
}

#[test]
fn a_replaced_program_and_another_namespace_are_noted() {
    let mut facts = healthy();
    let holder = holder_of(place(&mut facts));
    (holder.exe, holder.exe_is_gone) = (Some("/usr/bin/broadcasterd (deleted)".into()), true);
    assert!(holder.is_daemon());
    assert_finds(&facts, Check::Lock, Level::Note, &["replaced or removed", "broadcasterd stop"]);
    let mut facts = healthy();
    holder_of(place(&mut facts)).elsewhere = Some(true);
    assert_finds(&facts, Check::Lock, Level::Note, &["another mount namespace"]);
    let mut facts = healthy();
    look(&mut facts).lock = Lock::Unknown("permission denied".to_owned());
    assert_finds(&facts, Check::Lock, Level::Warning, &["permission denied"]);
}

#[test]
fn what_programs_have_without_a_daemon_is_said_when_there_is_none() {
    let mut facts = stopped();
    assert!(!findings(&facts).iter().any(|found| found.finding.contains("notifications")));
    facts.notifications = Some(Notifications { payload: true, payload_bytes_max: 4096 });
    let said = |facts: &Facts| findings(facts).iter().any(|found| found.finding.contains("notifications"));
    assert!(said(&facts) && findings(&facts).iter().any(|found| found.finding.contains("4096 bytes")));
    facts.notifications = Some(Notifications { payload: false, payload_bytes_max: 4096 });
    assert!(findings(&facts).iter().any(|found| found.finding.contains("without payloads")));
    facts.places = healthy().places;
    assert!(!said(&facts), "with a daemon nobody goes by them");
}

#[test]
fn two_daemons_are_an_error_and_two_names_of_one_are_not() {
    let mut facts = healthy();
    facts.places = Ok(vec![served_at(RUN_USER, Origin::RunUser, 812), served_at(STATE, Origin::State, 903)]);
    assert_finds(
        &facts,
        Check::Twins,
        Level::Error,
        &["2 daemons", "process 812", "process 903", &format!("--socket {STATE} stop")],
    );
    facts.places = Ok(vec![served_at(RUN_USER, Origin::RunUser, 812), served_at(STATE, Origin::State, 812)]);
    assert_finds(&facts, Check::Twins, Level::Ok, &[]);
}

#[test]
fn a_daemon_that_hangs_stands_before_one_that_answers() {
    let mut facts = stopped();
    facts.places.as_mut().expect("places")[1] = served_at(STATE, Origin::State, 903);
    assert_finds(&facts, Check::Daemon, Level::Error, &["812"]);
    assert_finds(&facts, Check::Twins, Level::Error, &["812", "903"]);
}

#[test]
fn a_daemon_at_a_later_place_is_used() {
    let mut facts = healthy();
    facts.places = Ok(vec![nothing_at(RUN_USER, Origin::RunUser), served_at(STATE, Origin::State, 903)]);
    assert_finds(&facts, Check::Socket, Level::Note, &[&format!("clients use {STATE}"), "comes first"]);
    assert_finds(&facts, Check::Daemon, Level::Ok, &["process 903"]);
    place(&mut facts).look = None;
    assert_finds(&facts, Check::Directory, Level::Warning, &["hangs"]);
}

#[test]
fn a_service_is_compared_with_who_serves() {
    let mut facts = healthy();
    let known = activated(&mut facts);
    (known.service.active, known.service.main_pid) = ("active".to_owned(), Some(812));
    assert_finds(&facts, Check::Service, Level::Ok, &["broadcasterd.socket active (enabled)", "process 812"]);
    activated(&mut facts).service.active = "active".to_owned();
    facts.service.as_mut().expect("known").service.main_pid = Some(5);
    assert_finds(&facts, Check::Service, Level::Warning, &["is process 5", "process 812"]);
    activated(&mut facts);
    assert_finds(&facts, Check::Service, Level::Warning, &["did not start"]);
}

#[test]
fn troubles_of_a_service_are_told_apart() {
    let cases: [(Change<Service>, Level, &str); 7] = [
        (|known| known.program = Some(ProgramFile::Missing), Level::Error, "not a program"),
        (|known| known.service.active = "failed".to_owned(), Level::Warning, "has failed"),
        (|known| known.socket.load = "masked".to_owned(), Level::Note, "masked"),
        (|known| known.socket.listens = vec!["/x".into()], Level::Warning, "listens on /x"),
        (|known| known.service.outdated = true, Level::Note, "daemon-reload"),
        (|known| known.program = Some(ProgramFile::Another), Level::Note, "not this program"),
        (|known| known.socket.active = "inactive".to_owned(), Level::Note, "enable --now"),
    ];
    for (change, level, words) in cases {
        let mut facts = unused();
        change(activated(&mut facts));
        assert_finds(&facts, Check::Service, level, &[words]);
    }
}

#[test]
fn no_service_manager_is_no_trouble() {
    let mut facts = healthy();
    facts.service = None;
    assert_finds(&facts, Check::Service, Level::Note, &["nothing to do"]);
    facts.service = Some(Service { silent: Some("no such program".to_owned()), ..Service::default() });
    assert_finds(&facts, Check::Service, Level::Note, &["no such program", "nothing to do"]);
    facts.service.as_mut().expect("known").files = vec!["/etc/systemd/user/broadcasterd.socket".into()];
    assert_finds(&facts, Check::Service, Level::Note, &["/etc/systemd/user/broadcasterd.socket is there"]);
    facts.service.as_mut().expect("known").silent = None;
    assert_finds(&facts, Check::Service, Level::Note, &["daemon-reload"]);
}

#[test]
fn lingering_is_for_users_without_a_session() {
    let mut facts = healthy();
    let known = facts.service.as_mut().expect("known");
    known.login = Some(Login { name: "u".to_owned(), sessions: 0 });
    assert_finds(&facts, Check::Service, Level::Note, &["loginctl enable-linger u"]);
    facts.service.as_mut().expect("known").lingers = true;
    assert_finds(&facts, Check::Service, Level::Ok, &[]);
}

#[test]
fn too_few_files_and_watches_are_told_with_their_numbers() {
    let mut facts = healthy();
    holder_of(place(&mut facts)).open_files = Some((256, 256));
    assert_finds(&facts, Check::Limits, Level::Warning, &["process 812", "256", "4160"]);
    let mut facts = healthy();
    facts.limits.open_files = Some((1024, 4096));
    assert_finds(&facts, Check::Limits, Level::Note, &["from here", "4096 files"]);
    facts.limits.inotify_instances_max = Some(1);
    assert_finds(&facts, Check::Limits, Level::Warning, &["max_user_instances is 1"]);
    facts.limits.no_thread = true;
    facts.places = Err("nothing is known".to_owned());
    assert!(said(&facts).contains("the limits: no thread can be started"), "{}", said(&facts));
}

#[test]
fn a_program_that_can_not_be_started_is_an_error() {
    let variable = |path: &str, file| {
        let mut facts = unused();
        facts.programs.as_mut().expect("known").variable = Some((path.into(), file));
        facts
    };
    for (path, file, words) in [
        ("bin/broadcasterd", ProgramFile::This, "relative"),
        ("/x", ProgramFile::Missing, "does not exist"),
        ("/x", ProgramFile::NotAFile, "not a file"),
        ("/x", ProgramFile::NotExecutable, "can not be executed"),
    ] {
        assert_finds(&variable(path, file), Check::Program, Level::Error, &[path, words, "clients start no daemon"]);
    }
    assert_finds(&variable("/x", ProgramFile::Another), Check::Program, Level::Ok, &["another than this"]);
    let mut facts = unused();
    facts.programs.as_mut().expect("known").in_path.clear();
    assert_finds(&facts, Check::Program, Level::Note, &["host the bus themselves", "add /usr/bin to PATH"]);
    facts.programs = None;
    assert_finds(&facts, Check::Program, Level::Warning, &["PATH"]);
}

#[test]
fn other_versions_in_path_are_named() {
    let mut facts = healthy();
    let programs = facts.programs.as_mut().expect("known");
    let other = |path: &str, version: Option<&str>| InPath {
        path: path.into(),
        file: ProgramFile::Another,
        version: version.map(str::to_owned),
    };
    programs.in_path.extend([other("/old/broadcasterd", Some("0.1.9")), other("/mute/broadcasterd", None)]);
    let words = ["/old/broadcasterd 0.1.9", "/mute/broadcasterd without a version"];
    assert_finds(&facts, Check::Program, Level::Warning, &words);
    assert!(said(&facts).starts_with("The bus works, process 812 serves it; mind the program:"), "{}", said(&facts));
}

#[test]
fn an_environment_of_somebody_else_is_named() {
    let with = |change: &dyn Fn(&mut Environment)| {
        let mut facts = healthy();
        change(facts.environment.as_mut().expect("known"));
        facts
    };
    let theirs = Node::There { kind: Kind::Directory, owner: 7, mode: 0o700 };
    let facts = with(&|env| env.runtime_dir = Some(("/run/user/7".into(), theirs.clone())));
    assert_finds(&facts, Check::Environment, Level::Warning, &["/run/user/7", "uid 7", "unset XDG_RUNTIME_DIR"]);
    let facts = with(&|env| env.runtime_dir = Some(("run".into(), Node::Missing)));
    assert_finds(&facts, Check::Environment, Level::Warning, &["relative"]);
    let facts = with(&|env| env.runtime_dir = Some(("/gone".into(), Node::Missing)));
    assert_finds(&facts, Check::Environment, Level::Warning, &["/gone", "not there"]);
    let facts = with(&|env| (env.runtime_dir, env.run_user.1) = (None, Node::Missing));
    assert_finds(&facts, Check::Environment, Level::Note, &["state directory"]);
    let facts = with(&|env| env.uid = 7);
    assert_finds(&facts, Check::Environment, Level::Warning, &["uid 7"]);
    let facts = with(&|env| env.home = None);
    assert_finds(&facts, Check::Environment, Level::Note, &["HOME"]);
    let facts = with(&|env| env.walls = vec!["a Flatpak sandbox", "WSL"]);
    assert_finds(&facts, Check::Environment, Level::Note, &["a Flatpak sandbox and WSL"]);
    let mut facts = with(&|env| env.sudo_user = Some("u".to_owned()));
    assert_finds(&facts, Check::Environment, Level::Ok, &[]);
    facts.euid = 0;
    facts.environment.as_mut().expect("known").uid = 0;
    assert_finds(&facts, Check::Environment, Level::Warning, &["su or sudo"]);
    facts.environment.as_mut().expect("known").runtime_dir = None;
    assert_finds(&facts, Check::Environment, Level::Note, &["the bus of root", "sudo runs this for u"]);
    facts.environment = None;
    assert_finds(&facts, Check::Environment, Level::Warning, &["XDG_RUNTIME_DIR"]);
}

#[test]
fn a_daemon_without_its_stats_socket_is_noted_and_a_host_needs_none() {
    let mut facts = healthy();
    place(&mut facts).stats.as_mut().expect("looked at").file = Node::Missing;
    assert_finds(&facts, Check::Stats, Level::Note, &["/run/user/1000/broadcaster/stats.sock"]);
    let mut facts = healthy();
    place(&mut facts).stats.as_mut().expect("looked at").connects = Err("refused".to_owned());
    assert_finds(&facts, Check::Stats, Level::Note, &["refused"]);
    holder_of(place(&mut facts)).exe = Some("/usr/bin/editor".into());
    assert_finds(&facts, Check::Stats, Level::Ok, &["hosts the bus"]);
}

#[test]
fn a_path_is_one_word_of_a_shell() {
    assert_eq!(quoted(Path::new("/run/a-b_1.sock")), "/run/a-b_1.sock");
    assert_eq!(quoted(Path::new("/a b/$(x)")), "'/a b/$(x)'");
    assert_eq!(quoted(Path::new("/it's")), r"'/it'\''s'");
}

#[test]
fn names_from_outside_do_not_move_the_cursor() {
    let mut facts = stopped();
    holder_of(place(&mut facts)).name = Some("\x1b[2J) (\n".to_owned());
    for finding in findings(&facts) {
        assert!(!finding.finding.contains(char::is_control), "{finding:?}");
    }
}

#[test]
fn the_number_of_connections_is_the_brokers() {
    assert_eq!(usize::try_from(CONNECTIONS_MAX), Ok(broadcaster_server::Limits::default().connections_max));
}
