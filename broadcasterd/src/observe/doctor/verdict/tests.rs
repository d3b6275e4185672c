//! Invented facts and the findings derived from them.

use super::words::quoted;
use super::*;
use crate::observe::doctor::facts::{
    Cause, Client, Disk, Environment, FileId, Holder, InPath, Kind, Limits, Lock, Node, Notifications, PROGRAM_NAME,
    Place, PlaceFiles, ProgramFile, Programs, Service, Stats,
};
use crate::observe::doctor::parse::{Login, Unit};
use crate::observe::doctor::shared_memory::SharedMemory;
use std::path::{Path, PathBuf};
use std::time::Duration;
use system_broadcaster::Origin;

const RUN_USER: &str = "/run/user/1000/broadcaster/bus.sock";
const STATE: &str = "/home/u/.local/state/broadcaster/bus.sock";

/// Changes one fact.
type Change<T> = fn(&mut T);

fn node(kind: Kind, mode: u32) -> Node {
    Node::Exists { kind, owner: 1000, mode }
}

fn unused_at(socket: &str, origin: Origin) -> Place {
    let files = PlaceFiles {
        directory: Node::Missing,
        parent: node(Kind::Directory, 0o700),
        disk: Some(Disk {
            directory: "/run/user/1000".into(),
            read_only: false,
            full: false,
            out_of_inodes: false,
            writable: true,
        }),
        socket: Node::Missing,
        listens: Some(false),
        lock: Lock::Missing,
    };
    Place { socket: socket.into(), origin, files: Some(files), status: Status::NotRequested, stats: None }
}

fn holder(pid: u32) -> Holder {
    Holder {
        pid,
        name: Some(PROGRAM_NAME.to_owned()),
        exe: Some("/usr/bin/broadcasterd".into()),
        exe_is_gone: false,
        state: Some('S'),
        open_files: Some((524_288, 524_288)),
        descriptors: Some(20),
        elsewhere: Some(false),
    }
}

fn served_at(socket: &str, origin: Origin, pid: u32) -> Place {
    let mut place = unused_at(socket, origin);
    place.files = place.files.map(|files| PlaceFiles {
        directory: node(Kind::Directory, 0o700),
        socket: node(Kind::Socket, 0o600),
        listens: Some(true),
        lock: Lock::Held { id: FileId { device: 45, inode: pid.into() }, holders: vec![holder(pid)] },
        ..files
    });
    place.status = Status::Answered {
        version: "0.2.0".to_owned(),
        pid,
        protocol: 1,
        uptime: Duration::from_secs(3725),
        connections: 7,
        held_bytes: 4096,
        held_bytes_max: 268_435_456,
    };
    let path = PathBuf::from(socket).with_file_name("stats.sock");
    place.stats = Some(Stats { path, file: node(Kind::Socket, 0o600), clients: Ok(vec![]) });
    place
}

/// A desktop user whose clients have started the daemon.
pub(in crate::observe::doctor) fn healthy() -> Facts {
    Facts {
        version: "0.2.0".to_owned(),
        euid: 1000,
        socket_given: false,
        path_bytes_max: 107,
        places: Ok(vec![served_at(RUN_USER, Origin::RunUser, 812), unused_at(STATE, Origin::State)]),
        service: Some(Service { login: Some(Login { name: "u".to_owned(), sessions: 1 }), ..Service::default() }),
        limits: Limits { open_files: Some((1024, 524_288)), inotify_instances_max: Some(128), no_thread: false },
        shared_memory: SharedMemory::default(),
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
            runtime_dir: Some(("/run/user/1000".into(), node(Kind::Directory, 0o700))),
            run_user: ("/run/user/1000".into(), node(Kind::Directory, 0o700)),
            sudo_user: None,
            isolation: vec![],
        }),
        notifications: None,
    }
}

/// The same user, with a daemon stopped by SIGSTOP.
pub(in crate::observe::doctor) fn stopped() -> Facts {
    let mut facts = healthy();
    let place = place(&mut facts);
    place.status = silent();
    holder_of(place).state = Some('T');
    facts
}

fn silent() -> Status {
    Status::Failed { cause: Cause::Silent, sentence: "the daemon has not answered".to_owned() }
}

/// The same user before the bus was used.
fn unused() -> Facts {
    let mut facts = healthy();
    facts.places = Ok(vec![unused_at(RUN_USER, Origin::RunUser), unused_at(STATE, Origin::State)]);
    facts
}

fn place(facts: &mut Facts) -> &mut Place {
    &mut facts.places.as_mut().expect("places")[0]
}

fn files(facts: &mut Facts) -> &mut PlaceFiles {
    place(facts).files.as_mut().expect("inspected")
}

fn holder_of(place: &mut Place) -> &mut Holder {
    match &mut place.files.as_mut().expect("inspected").lock {
        Lock::Held { holders, .. } => &mut holders[0],
        lock => panic!("the lock is {lock:?}"),
    }
}

fn unit(load: &str, active: &str) -> Unit {
    Unit { load: load.to_owned(), active: active.to_owned(), enabled: "enabled".to_owned(), ..Unit::default() }
}

fn activated(facts: &mut Facts) -> &mut Service {
    let known = facts.service.as_mut().expect("known");
    known.socket = Unit { listens: vec![RUN_USER.into()], ..unit("loaded", "active") };
    known.service = Unit { program: Some("/usr/bin/broadcasterd".into()), ..unit("loaded", "inactive") };
    known.program = Some(ProgramFile::This);
    known
}

/// The most serious finding of the check.
fn worst(facts: &Facts, check: Check) -> (Level, String) {
    let findings = findings(facts);
    let of_check = findings.into_iter().filter(|finding| finding.check == check);
    let worst = of_check.max_by_key(|finding| finding.level).expect("each check has a finding");
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

fn verdict(facts: &Facts) -> String {
    sentence(facts, &findings(facts))
}

#[test]
fn healthy_bus_has_no_findings_above_ok() {
    let facts = healthy();
    assert!(findings(&facts).iter().all(|finding| finding.level == Level::Ok), "{:?}", findings(&facts));
    assert_eq!(verdict(&facts), "The bus works: process 812 serves it.");
    assert_finds(&facts, Check::Socket, Level::Ok, &[RUN_USER, "35 of 107 bytes", STATE, "unused"]);
    assert_finds(&facts, Check::Daemon, Level::Ok, &["process 812", "0.2.0", "1h 2m 5s", "7 connections"]);
}

#[test]
fn unused_bus_is_not_an_error() {
    let facts = unused();
    assert_finds(&facts, Check::Daemon, Level::Note, &["not running", "the first client"]);
    assert_finds(&facts, Check::Directory, Level::Ok, &["does not exist yet"]);
    assert_eq!(verdict(&facts), "No problem found: no daemon runs, and the first client starts one.");
    let mut forbidden = unused();
    forbidden.programs.as_mut().expect("known").no_autostart = true;
    assert_finds(&forbidden, Check::Daemon, Level::Warning, &["BROADCASTER_NO_AUTOSTART"]);
}

#[test]
fn stopped_daemon_is_reported_with_the_signal_that_continues_it() {
    let facts = stopped();
    assert_finds(
        &facts,
        Check::Daemon,
        Level::Error,
        &["812", "stopped (state T)", "kill -CONT 812", "kill -KILL 812"],
    );
    assert!(verdict(&facts).contains("Most likely cause: daemon: process 812"), "{}", verdict(&facts));
}

#[test]
fn hanging_daemon_is_distinguished_from_one_that_waits_for_a_device() {
    let mut facts = stopped();
    holder_of(place(&mut facts)).state = Some('R');
    assert_finds(&facts, Check::Daemon, Level::Error, &["hangs (state R)", "`kill 812`"]);
    activated(&mut facts).service.main_pid = Some(812);
    assert_finds(&facts, Check::Daemon, Level::Error, &["systemctl --user restart"]);
    holder_of(place(&mut facts)).state = Some('D');
    assert_finds(&facts, Check::Daemon, Level::Error, &["no signal interrupts"]);
}

#[test]
fn killing_a_hanging_host_ends_its_program() {
    let mut facts = stopped();
    let holder = holder_of(place(&mut facts));
    (holder.name, holder.exe) = (Some("editor".to_owned()), Some("/usr/bin/editor".into()));
    assert_finds(&facts, Check::Daemon, Level::Error, &["(editor)", "ends the whole program"]);
    assert_finds(&facts, Check::Lock, Level::Note, &["hosts the bus"]);
}

#[test]
fn invisible_holder_still_holds_the_lock() {
    let mut facts = stopped();
    files(&mut facts).lock = Lock::Held { id: FileId { device: 1, inode: 1 }, holders: vec![] };
    assert_finds(&facts, Check::Lock, Level::Note, &["not visible"]);
    assert_finds(&facts, Check::Daemon, Level::Error, &["a process that is not visible", "where the daemon runs"]);
}

#[test]
fn other_errors_keep_the_words_of_the_client() {
    for cause in [Cause::OtherUser, Cause::NotADaemon, Cause::Refused, Cause::Variable, Cause::Other] {
        let mut facts = healthy();
        place(&mut facts).status = Status::Failed { cause, sentence: "the words of the client".to_owned() };
        assert_finds(&facts, Check::Daemon, Level::Error, &["the words of the client"]);
    }
    let mut facts = healthy();
    place(&mut facts).status = Status::Failed { cause: Cause::NotListening, sentence: String::new() };
    assert_finds(&facts, Check::Daemon, Level::Error, &["812", "does not listen"]);
}

#[test]
fn other_version_is_noted_and_an_almost_full_daemon_is_a_warning() {
    let mut facts = healthy();
    facts.version = "0.3.0".to_owned();
    assert_finds(&facts, Check::Daemon, Level::Note, &["version 0.2.0", "this program is version 0.3.0"]);
    for (at, level) in [(3686, Level::Ok), (3687, Level::Warning)] {
        let mut facts = healthy();
        if let Status::Answered { connections, .. } = &mut place(&mut facts).status {
            *connections = at;
        }
        let of_connections = findings(&facts).into_iter().find(|finding| finding.check == Check::Connections);
        assert_eq!(of_connections.map_or(Level::Ok, |finding| finding.level), level, "{at} connections");
        assert_finds(&facts, Check::Daemon, Level::Ok, &[&at.to_string()]);
    }
    let mut facts = healthy();
    if let Status::Answered { held_bytes, held_bytes_max, .. } = &mut place(&mut facts).status {
        *held_bytes = *held_bytes_max;
    }
    assert_finds(&facts, Check::Daemon, Level::Warning, &["do not read"]);
}

#[test]
fn missing_place_is_an_error_and_the_other_checks_continue() {
    let mut facts = healthy();
    facts.places = Err("the socket path has 200 bytes".to_owned());
    assert_finds(&facts, Check::Socket, Level::Error, &["200 bytes", "at most 107 bytes"]);
    assert_finds(&facts, Check::Program, Level::Ok, &[]);
    facts.places = Ok(vec![]);
    assert_eq!(verdict(&facts), "No problem found: no daemon runs, and the first client starts one.");
}

#[test]
fn directory_writable_by_others_is_an_error_if_there_is_no_alternative() {
    let mut facts = unused();
    files(&mut facts).directory = node(Kind::Directory, 0o777);
    assert_finds(&facts, Check::Directory, Level::Warning, &["mode 0777", "chmod 0700 /run/user/1000/broadcaster"]);
    facts.places.as_mut().expect("places").truncate(1);
    assert_finds(&facts, Check::Directory, Level::Error, &["mode 0777"]);
    assert!(verdict(&facts).contains("directory: "), "{}", verdict(&facts));
}

#[test]
fn unusable_directories_are_distinguished() {
    let cases: [(Change<PlaceFiles>, &str); 8] = [
        (|files| files.directory = Node::Exists { kind: Kind::Directory, owner: 7, mode: 0o700 }, "belongs to uid 7"),
        (|files| files.directory = node(Kind::Link, 0o777), "is not a directory"),
        (|files| files.directory = Node::Unknown("permission denied".to_owned()), "permission denied"),
        (|files| disk(files).read_only = true, "read-only"),
        (|files| disk(files).full = true, "no space left"),
        (|files| disk(files).out_of_inodes = true, "no inodes left"),
        (|files| disk(files).writable = false, "cannot create it"),
        (|files| (files.directory, disk(files).writable) = (node(Kind::Directory, 0o500), false), "chmod 0700"),
    ];
    for (change, words) in cases {
        let mut facts = unused();
        facts.places.as_mut().expect("places").truncate(1);
        change(files(&mut facts));
        assert_finds(&facts, Check::Directory, Level::Error, &[words]);
    }
    let mut facts = healthy();
    files(&mut facts).parent = node(Kind::Directory, 0o777);
    assert_finds(&facts, Check::Directory, Level::Warning, &["the parent of", "chmod go-w /run/user/1000"]);
    files(&mut facts).parent = node(Kind::Directory, 0o1777);
    assert_finds(&facts, Check::Directory, Level::Ok, &[]);
}

fn disk(files: &mut PlaceFiles) -> &mut Disk {
    files.disk.as_mut().expect("known")
}

#[test]
fn daemon_of_another_user_is_not_to_be_killed() {
    let mut facts = healthy();
    place(&mut facts).status = Status::NotRequested;
    files(&mut facts).socket = Node::Exists { kind: Kind::Socket, owner: 7, mode: 0o600 };
    assert_finds(&facts, Check::Daemon, Level::Error, &["uid 7", "a directory of your own"]);
    assert!(!worst(&facts, Check::Daemon).1.contains("kill"));
}

#[test]
fn hanging_file_system_is_reported() {
    let mut facts = unused();
    facts.places.as_mut().expect("places").truncate(1);
    place(&mut facts).files = None;
    assert_finds(&facts, Check::File, Level::Error, &["hangs", RUN_USER]);
}

#[test]
fn socket_is_stale_only_if_no_process_serves_it() {
    let mut facts = unused();
    let files_ = files(&mut facts);
    (files_.directory, files_.socket) = (node(Kind::Directory, 0o700), node(Kind::Socket, 0o600));
    files_.lock = Lock::Free;
    assert_finds(&facts, Check::File, Level::Note, &["is stale", "the next daemon removes it"]);
    files(&mut facts).listens = Some(true);
    assert_finds(&facts, Check::File, Level::Error, &["does not hold the lock", "ss -xlp"]);
    activated(&mut facts);
    assert_finds(&facts, Check::File, Level::Ok, &["of the service manager"]);
    assert_finds(&facts, Check::Daemon, Level::Ok, &["starts it on the first connection"]);
}

#[test]
fn file_in_place_of_the_socket_is_an_error() {
    for (node, words) in [
        (node(Kind::File, 0o600), "a regular file"),
        (node(Kind::Link, 0o777), "a symbolic link"),
        (node(Kind::Directory, 0o700), "a directory"),
        (Node::Exists { kind: Kind::Socket, owner: 7, mode: 0o600 }, "a socket of uid 7"),
    ] {
        let mut facts = unused();
        facts.places.as_mut().expect("places").truncate(1);
        files(&mut facts).socket = node;
        assert_finds(&facts, Check::File, Level::Error, &[words, RUN_USER]);
        assert!(verdict(&facts).contains("file: "), "{}", verdict(&facts));
    }
}

#[test]
fn replaced_program_and_other_namespace_are_noted() {
    let mut facts = healthy();
    let holder = holder_of(place(&mut facts));
    (holder.exe, holder.exe_is_gone) = (Some("/usr/bin/broadcasterd (deleted)".into()), true);
    assert!(holder.is_daemon());
    assert_finds(&facts, Check::Lock, Level::Note, &["replaced or removed", "broadcasterd stop"]);
    let mut facts = healthy();
    holder_of(place(&mut facts)).elsewhere = Some(true);
    assert_finds(&facts, Check::Lock, Level::Note, &["another mount namespace"]);
    let mut facts = healthy();
    files(&mut facts).lock = Lock::Unknown("permission denied".to_owned());
    assert_finds(&facts, Check::Lock, Level::Warning, &["permission denied"]);
}

#[test]
fn notifications_are_mentioned_only_without_a_daemon() {
    let mut facts = stopped();
    assert!(!findings(&facts).iter().any(|found| found.finding.contains("notifications")));
    facts.notifications = Some(Notifications { payload: true, payload_bytes_max: 4096 });
    let mentioned = |facts: &Facts| findings(facts).iter().any(|found| found.finding.contains("notifications"));
    assert!(mentioned(&facts) && findings(&facts).iter().any(|found| found.finding.contains("4096 bytes")));
    facts.notifications = Some(Notifications { payload: false, payload_bytes_max: 4096 });
    assert!(findings(&facts).iter().any(|found| found.finding.contains("without payloads")));
    facts.places = healthy().places;
    assert!(!mentioned(&facts), "a running daemon replaces them");
}

#[test]
fn two_daemons_are_an_error_and_two_names_of_one_daemon_are_not() {
    let mut facts = healthy();
    facts.places = Ok(vec![served_at(RUN_USER, Origin::RunUser, 812), served_at(STATE, Origin::State, 903)]);
    assert_finds(
        &facts,
        Check::Duplicates,
        Level::Error,
        &["2 daemons", "process 812", "process 903", &format!("--socket {STATE} stop")],
    );
    facts.places = Ok(vec![served_at(RUN_USER, Origin::RunUser, 812), served_at(STATE, Origin::State, 812)]);
    assert_finds(&facts, Check::Duplicates, Level::Ok, &[]);
}

#[test]
fn hanging_daemon_precedes_one_that_answers() {
    let mut facts = stopped();
    facts.places.as_mut().expect("places")[1] = served_at(STATE, Origin::State, 903);
    assert_finds(&facts, Check::Daemon, Level::Error, &["812"]);
    assert_finds(&facts, Check::Duplicates, Level::Error, &["812", "903"]);
}

#[test]
fn daemon_at_a_later_place_is_used() {
    let mut facts = healthy();
    facts.places = Ok(vec![unused_at(RUN_USER, Origin::RunUser), served_at(STATE, Origin::State, 903)]);
    assert_finds(&facts, Check::Socket, Level::Note, &[&format!("clients use {STATE}"), "comes first"]);
    assert_finds(&facts, Check::Daemon, Level::Ok, &["process 903"]);
    place(&mut facts).files = None;
    assert_finds(&facts, Check::Directory, Level::Warning, &["hangs"]);
}

#[test]
fn service_is_compared_with_the_holder() {
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
fn problems_of_a_service_are_distinguished() {
    let cases: [(Change<Service>, Level, &str); 7] = [
        (|known| known.program = Some(ProgramFile::Missing), Level::Error, "not an executable program"),
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
fn missing_service_manager_is_not_an_error() {
    let mut facts = healthy();
    facts.service = None;
    assert_finds(&facts, Check::Service, Level::Note, &["nothing to do"]);
    facts.service = Some(Service { silent: Some("no such program".to_owned()), ..Service::default() });
    assert_finds(&facts, Check::Service, Level::Note, &["no such program", "nothing to do"]);
    facts.service.as_mut().expect("known").files = vec!["/etc/systemd/user/broadcasterd.socket".into()];
    assert_finds(&facts, Check::Service, Level::Note, &["/etc/systemd/user/broadcasterd.socket is installed"]);
    facts.service.as_mut().expect("known").silent = None;
    assert_finds(&facts, Check::Service, Level::Note, &["daemon-reload"]);
}

#[test]
fn lingering_is_suggested_for_users_without_a_session() {
    let mut facts = healthy();
    let known = facts.service.as_mut().expect("known");
    known.login = Some(Login { name: "u".to_owned(), sessions: 0 });
    assert_finds(&facts, Check::Service, Level::Note, &["loginctl enable-linger u"]);
    facts.service.as_mut().expect("known").lingers = true;
    assert_finds(&facts, Check::Service, Level::Ok, &[]);
}

#[test]
fn too_few_descriptors_and_inotify_instances_are_reported_with_numbers() {
    let mut facts = healthy();
    holder_of(place(&mut facts)).open_files = Some((256, 256));
    assert_finds(&facts, Check::Limits, Level::Warning, &["process 812", "256", "156 of 4096 connections", "5509"]);
    let mut facts = healthy();
    facts.limits.open_files = Some((1024, 4096));
    assert_finds(&facts, Check::Limits, Level::Note, &["from here", "4096 files"]);
    facts.limits.open_files = Some((52, 52));
    assert_finds(
        &facts,
        Check::Limits,
        Level::Warning,
        &["from here may open 52 files, and needs at least 53", "5509"],
    );
    facts.limits.inotify_instances_max = Some(1);
    assert_finds(&facts, Check::Limits, Level::Warning, &["max_user_instances is 1"]);
    facts.limits.no_thread = true;
    facts.places = Err("unknown".to_owned());
    assert!(verdict(&facts).contains("limits: cannot start threads"), "{}", verdict(&facts));
}

#[test]
fn program_that_cannot_be_started_is_an_error() {
    let variable = |path: &str, file| {
        let mut facts = unused();
        facts.programs.as_mut().expect("known").variable = Some((path.into(), file));
        facts
    };
    for (path, file, words) in [
        ("bin/broadcasterd", ProgramFile::This, "relative"),
        ("/x", ProgramFile::Missing, "does not exist"),
        ("/x", ProgramFile::NotAFile, "not a file"),
        ("/x", ProgramFile::NotExecutable, "not executable"),
    ] {
        assert_finds(&variable(path, file), Check::Program, Level::Error, &[path, words, "clients start no daemon"]);
    }
    assert_finds(&variable("/x", ProgramFile::Another), Check::Program, Level::Ok, &["not this program"]);
    let mut facts = unused();
    facts.programs.as_mut().expect("known").in_path.clear();
    assert_finds(&facts, Check::Program, Level::Note, &["host the bus themselves", "add /usr/bin to PATH"]);
    facts.programs = None;
    assert_finds(&facts, Check::Program, Level::Warning, &["PATH"]);
}

#[test]
fn other_versions_in_path_are_listed() {
    let mut facts = healthy();
    let programs = facts.programs.as_mut().expect("known");
    let other = |path: &str, version: Option<&str>| InPath {
        path: path.into(),
        file: ProgramFile::Another,
        version: version.map(str::to_owned),
    };
    programs.in_path.extend([other("/old/broadcasterd", Some("0.1.9")), other("/mute/broadcasterd", None)]);
    let words = ["/old/broadcasterd 0.1.9", "/mute/broadcasterd (unknown version)"];
    assert_finds(&facts, Check::Program, Level::Warning, &words);
    assert!(
        verdict(&facts).starts_with("The bus works: process 812 serves it. Warning: program:"),
        "{}",
        verdict(&facts)
    );
}

#[test]
fn environment_of_another_user_is_reported() {
    let with = |change: &dyn Fn(&mut Environment)| {
        let mut facts = healthy();
        change(facts.environment.as_mut().expect("known"));
        facts
    };
    let theirs = Node::Exists { kind: Kind::Directory, owner: 7, mode: 0o700 };
    let facts = with(&|env| env.runtime_dir = Some(("/run/user/7".into(), theirs.clone())));
    assert_finds(&facts, Check::Environment, Level::Warning, &["/run/user/7", "uid 7", "unset XDG_RUNTIME_DIR"]);
    let facts = with(&|env| env.runtime_dir = Some(("run".into(), Node::Missing)));
    assert_finds(&facts, Check::Environment, Level::Warning, &["relative"]);
    let facts = with(&|env| env.runtime_dir = Some(("/gone".into(), Node::Missing)));
    assert_finds(&facts, Check::Environment, Level::Warning, &["/gone", "does not exist"]);
    let facts = with(&|env| (env.runtime_dir, env.run_user.1) = (None, Node::Missing));
    assert_finds(&facts, Check::Environment, Level::Note, &["state directory"]);
    let facts = with(&|env| env.uid = 7);
    assert_finds(&facts, Check::Environment, Level::Warning, &["user id is 7"]);
    let facts = with(&|env| env.home = None);
    assert_finds(&facts, Check::Environment, Level::Note, &["HOME"]);
    let facts = with(&|env| env.isolation = vec!["a Flatpak sandbox", "WSL"]);
    assert_finds(&facts, Check::Environment, Level::Note, &["a Flatpak sandbox and WSL"]);
    let mut facts = with(&|env| env.sudo_user = Some("u".to_owned()));
    assert_finds(&facts, Check::Environment, Level::Ok, &[]);
    facts.euid = 0;
    facts.environment.as_mut().expect("known").uid = 0;
    assert_finds(&facts, Check::Environment, Level::Warning, &["su or sudo"]);
    facts.environment.as_mut().expect("known").runtime_dir = None;
    assert_finds(&facts, Check::Environment, Level::Note, &["the bus of root", "u runs this through sudo"]);
    facts.environment = None;
    assert_finds(&facts, Check::Environment, Level::Warning, &["XDG_RUNTIME_DIR"]);
}

#[test]
fn missing_stats_socket_is_noted_except_for_a_host() {
    let mut facts = healthy();
    place(&mut facts).stats.as_mut().expect("inspected").file = Node::Missing;
    assert_finds(&facts, Check::Stats, Level::Note, &["/run/user/1000/broadcaster/stats.sock"]);
    let mut facts = healthy();
    place(&mut facts).stats.as_mut().expect("inspected").clients = Err("refused".to_owned());
    assert_finds(&facts, Check::Stats, Level::Note, &["refused"]);
    holder_of(place(&mut facts)).exe = Some("/usr/bin/editor".into());
    assert_finds(&facts, Check::Stats, Level::Ok, &["hosts the bus"]);
}

#[test]
fn path_is_one_shell_word() {
    assert_eq!(quoted(Path::new("/run/a-b_1.sock")), "/run/a-b_1.sock");
    assert_eq!(quoted(Path::new("/a b/$(x)")), "'/a b/$(x)'");
    assert_eq!(quoted(Path::new("/it's")), r"'/it'\''s'");
}

#[test]
fn names_from_outside_are_escaped() {
    let mut facts = stopped();
    holder_of(place(&mut facts)).name = Some("\x1b[2J) (\n".to_owned());
    for finding in findings(&facts) {
        assert!(!finding.finding.contains(char::is_control), "{finding:?}");
    }
}

#[test]
fn full_daemon_is_healthy_and_its_clients_are_listed() {
    let mut facts = healthy();
    let place_ = place(&mut facts);
    let sentence = "the daemon has 4096 connections, which is the limit".to_owned();
    place_.status = Status::Failed { cause: Cause::Full, sentence };
    let client = |pid, name: Option<&str>, connections| Client { pid, name: name.map(str::to_owned), connections };
    let mut clients = vec![client(90, Some("greedy"), 4000), client(91, None, 80)];
    clients.extend((1..=5).map(|pid| client(pid, None, 3)));
    place_.stats.as_mut().expect("inspected").clients = Ok(clients);
    assert_finds(&facts, Check::Daemon, Level::Ok, &["process 812 (broadcasterd) runs"]);
    let words =
        ["4096 connections", "process 90 (greedy) holds 4000; process 91 holds 80", "others hold 6", "LimitNOFILE"];
    assert_finds(&facts, Check::Connections, Level::Error, &words);
    assert!(verdict(&facts).contains("connections: process 812"), "{}", verdict(&facts));
    assert!(!findings(&facts).iter().any(|finding| finding.finding.contains("hangs")));
}

#[test]
fn silent_daemon_without_free_descriptors_is_full_unless_it_is_stopped() {
    let mut facts = stopped();
    let holder = holder_of(place(&mut facts));
    (holder.state, holder.open_files, holder.descriptors) = (Some('S'), Some((256, 256)), Some(256));
    assert_finds(&facts, Check::Connections, Level::Error, &["process 812", "256 file descriptors", "the limit"]);
    assert_finds(&facts, Check::Daemon, Level::Ok, &[]);
    holder_of(place(&mut facts)).descriptors = Some(255);
    assert_finds(&facts, Check::Daemon, Level::Error, &["hangs"]);
    let holder = holder_of(place(&mut facts));
    (holder.state, holder.descriptors) = (Some('T'), Some(256));
    assert_finds(&facts, Check::Daemon, Level::Error, &["kill -CONT 812"]);
}

#[test]
fn lock_that_no_daemon_can_lock_is_an_error() {
    for (kind, words, remedy) in [(Kind::Fifo, "a FIFO", "`rm "), (Kind::Directory, "a directory", "`rmdir ")] {
        let mut facts = unused();
        files(&mut facts).lock = Lock::NotAFile(kind);
        assert_finds(&facts, Check::Lock, Level::Error, &["bus.lock", words, "not a regular file", remedy]);
        assert!(verdict(&facts).contains("lock: "), "{}", verdict(&facts));
    }
}
