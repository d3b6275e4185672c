//! Memory under a limit on the size of files, which is enforced with a signal. One test, since the limit is the whole process's.

#![cfg(all(any(target_os = "linux", target_os = "android"), target_pointer_width = "64"))]
#![allow(clippy::unwrap_used)]

use broadcaster_local::{make_memory, shared_memory_problem};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::ErrorKind;

#[test]
fn memory_beyond_the_limit_is_refused_and_does_not_end_the_process() {
    let before = getrlimit(Resource::Fsize);
    let maximum = before.maximum;
    setrlimit(Resource::Fsize, Rlimit { current: Some(4095), maximum }).unwrap();
    let error = make_memory("broadcaster-test", 4096).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FileTooLarge);
    let problem = "memory of 4096 bytes is larger than the limit on the size of files, 4095 bytes";
    assert_eq!(error.to_string(), problem);
    assert_eq!(shared_memory_problem().as_deref(), Some(problem));
    setrlimit(Resource::Fsize, Rlimit { current: Some(4096), maximum }).unwrap();
    make_memory("broadcaster-test", 4096).unwrap();
    assert_eq!(shared_memory_problem().as_deref(), Some(problem), "the first attempt counts");
    setrlimit(Resource::Fsize, before).unwrap(); // the results may go to a file
}
