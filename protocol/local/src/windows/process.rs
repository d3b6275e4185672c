//! Starting a process that inherits nothing, and closing the output that this one was started with. It never waits without being asked to.

use super::text::{length, wide};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, PipeReader};
use std::marker::PhantomData;
use std::os::windows::io::{AsHandle, AsRawHandle, FromRawHandle, IntoRawHandle, OwnedHandle};
use std::path::Path;
use windows_sys::Win32::Foundation::{
    HANDLE, HANDLE_FLAG_INHERIT, INVALID_HANDLE_VALUE, SetHandleInformation, WAIT_OBJECT_0,
};
use windows_sys::Win32::System::Console::{GetStdHandle, STD_ERROR_HANDLE, STD_OUTPUT_HANDLE, SetStdHandle};
use windows_sys::Win32::System::Threading::{
    CREATE_NEW_PROCESS_GROUP, CREATE_UNICODE_ENVIRONMENT, CreateProcessW, DETACHED_PROCESS,
    DeleteProcThreadAttributeList, EXTENDED_STARTUPINFO_PRESENT, GetExitCodeProcess, INFINITE,
    InitializeProcThreadAttributeList, LPPROC_THREAD_ATTRIBUTE_LIST, PROC_THREAD_ATTRIBUTE_HANDLE_LIST,
    PROCESS_INFORMATION, STARTF_USESTDHANDLES, STARTUPINFOEXW, STARTUPINFOW, UpdateProcThreadAttribute,
    WaitForSingleObject,
};

/// A process that inherits nothing but three streams: no input, a pipe to us for its output, and our standard error.
#[derive(Debug)]
pub struct Detached {
    process: OwnedHandle,
    output: PipeReader,
}

impl Detached {
    /// Starts `program` with these arguments, which must not contain quotes or end with a backslash, and these variables alone. It
    /// has no console, and receives no control event of ours.
    ///
    /// # Errors
    ///
    /// If an argument cannot be passed on, or the system cannot start the program.
    #[allow(unsafe_code)]
    pub fn start(program: &Path, arguments: &[OsString], variables: &[(&str, OsString)]) -> io::Result<Self> {
        let application = wide(program.as_os_str())?;
        let mut line = command_line(program, arguments)?;
        let block = environment(variables)?;
        let (output, writer) = io::pipe()?;
        let streams = [
            OwnedHandle::from(File::open("NUL")?),
            OwnedHandle::from(writer),
            match io::stderr().as_handle().try_clone_to_owned() {
                Ok(stderr) => stderr,
                Err(_) => File::options().write(true).open("NUL")?.into(), // there is none
            },
        ];
        let handles = streams.each_ref().map(AsRawHandle::as_raw_handle);
        for handle in handles {
            // SAFETY: the handle is open, and ours; that it can be inherited ends with it, below.
            if unsafe { SetHandleInformation(handle, HANDLE_FLAG_INHERIT, HANDLE_FLAG_INHERIT) } == 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // Without this list, it would inherit whatever handle of this process happens to be one that can be inherited.
        let list = AttributeList::of_handles(&handles)?;
        let startup = STARTUPINFOEXW {
            StartupInfo: STARTUPINFOW {
                cb: length(size_of::<STARTUPINFOEXW>()),
                dwFlags: STARTF_USESTDHANDLES,
                hStdInput: handles[0],
                hStdOutput: handles[1],
                hStdError: handles[2],
                ..STARTUPINFOW::default()
            },
            lpAttributeList: list.pointer(),
        };
        let flags =
            EXTENDED_STARTUPINFO_PRESENT | CREATE_UNICODE_ENVIRONMENT | DETACHED_PROCESS | CREATE_NEW_PROCESS_GROUP;
        let mut made = PROCESS_INFORMATION::default();
        let null = std::ptr::null();
        // SAFETY: the texts end with a zero and the block with two, the command line may be written to, the start-up information is
        // of the size and kind that the flags say, and all that it points to lives until the call returns.
        let started = unsafe {
            CreateProcessW(
                application.as_ptr(),
                line.as_mut_ptr(),
                null,
                null,
                1,
                flags,
                block.as_ptr().cast(),
                std::ptr::null(),
                (&raw const startup).cast(),
                &raw mut made,
            )
        };
        if started == 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: both handles were just opened, and nothing else has them.
        let (process, thread) =
            unsafe { (OwnedHandle::from_raw_handle(made.hProcess), OwnedHandle::from_raw_handle(made.hThread)) };
        drop(thread);
        Ok(Self { process, output })
    }

    /// Its output.
    pub fn output(&mut self) -> &mut PipeReader {
        &mut self.output
    }

    /// Waits until it has ended, and returns its exit code.
    ///
    /// # Errors
    ///
    /// If the system does not report it.
    #[allow(unsafe_code)]
    pub fn wait(&self) -> io::Result<u32> {
        let (handle, mut code) = (self.process.as_raw_handle(), 0);
        // SAFETY: the handle is open, and `code` is a place for a number.
        let known = unsafe {
            WaitForSingleObject(handle, INFINITE) == WAIT_OBJECT_0 && GetExitCodeProcess(handle, &raw mut code) != 0
        };
        if known { Ok(code) } else { Err(io::Error::last_os_error()) }
    }
}

/// The command line, from which the program takes its arguments apart again.
fn command_line(program: &Path, arguments: &[OsString]) -> io::Result<Vec<u16>> {
    let mut line = OsString::new();
    for part in std::iter::once(program.as_os_str()).chain(arguments.iter().map(OsString::as_os_str)) {
        let bytes = part.as_encoded_bytes();
        if bytes.contains(&b'"') || bytes.ends_with(b"\\") {
            let sentence =
                format!("{} cannot be an argument: it has a quote in it, or ends with a backslash", part.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, sentence));
        }
        if !line.is_empty() {
            line.push(" ");
        }
        line.push("\"");
        line.push(part);
        line.push("\"");
    }
    wide(&line)
}

/// The variables as Windows wants them: in order, each with a zero behind it, and another zero at the end.
fn environment(variables: &[(&str, OsString)]) -> io::Result<Vec<u16>> {
    let mut variables: Vec<_> = variables.iter().collect();
    variables.sort_by_key(|(name, _)| name.to_uppercase());
    let mut block = Vec::new();
    for (name, value) in &variables {
        let mut text = OsString::from(name);
        text.push("=");
        text.push(value);
        block.extend(wide(&text)?);
    }
    if variables.is_empty() {
        block.push(0);
    }
    block.push(0);
    Ok(block)
}

/// The extended attributes of a process that is started.
struct AttributeList<'a> {
    memory: Vec<usize>,
    _handles: PhantomData<&'a [HANDLE]>,
}

impl<'a> AttributeList<'a> {
    /// These handles and no others are inherited.
    #[allow(unsafe_code)]
    fn of_handles(handles: &'a [HANDLE]) -> io::Result<Self> {
        let mut bytes = 0;
        // SAFETY: null asks for the size only, which is what the call is said to fail with.
        unsafe { InitializeProcThreadAttributeList(std::ptr::null_mut(), 1, 0, &raw mut bytes) };
        let mut memory = vec![0_usize; bytes.div_ceil(size_of::<usize>())];
        // SAFETY: the memory is as large as was asked for, and aligned for pointers.
        if unsafe { InitializeProcThreadAttributeList(memory.as_mut_ptr().cast(), 1, 0, &raw mut bytes) } == 0 {
            return Err(io::Error::last_os_error());
        }
        let list = Self { memory, _handles: PhantomData };
        let (attribute, null) = (PROC_THREAD_ATTRIBUTE_HANDLE_LIST as usize, std::ptr::null_mut());
        let (first, size) = (handles.as_ptr().cast(), size_of_val(handles));
        // SAFETY: the list is initialised, and the handles live for longer than it.
        if unsafe { UpdateProcThreadAttribute(list.pointer(), 0, attribute, first, size, null, std::ptr::null()) } == 0
        {
            return Err(io::Error::last_os_error());
        }
        Ok(list)
    }

    fn pointer(&self) -> LPPROC_THREAD_ATTRIBUTE_LIST {
        self.memory.as_ptr().cast_mut().cast()
    }
}

impl Drop for AttributeList<'_> {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: the list is initialised, and is not used any more.
        unsafe { DeleteProcThreadAttributeList(self.pointer()) };
    }
}

/// Closes standard output and standard error, so that their readers see the end; what is written to them from now on is discarded. Call it
/// while no other thread writes to them.
///
/// # Errors
///
/// If there is no `NUL` to write to.
#[allow(unsafe_code)]
pub fn drop_output() -> io::Result<()> {
    for which in [STD_OUTPUT_HANDLE, STD_ERROR_HANDLE] {
        let nowhere = OwnedHandle::from(File::options().write(true).open("NUL")?);
        // SAFETY: the call has no precondition.
        let before = unsafe { GetStdHandle(which) };
        // SAFETY: the handle is open, and this process gives it away for as long as it lives.
        if unsafe { SetStdHandle(which, nowhere.as_raw_handle()) } == 0 {
            return Err(io::Error::last_os_error());
        }
        let _ = nowhere.into_raw_handle();
        if !before.is_null() && before != INVALID_HANDLE_VALUE {
            // SAFETY: the handle was the process's own for this stream, and nothing else refers to it by now.
            drop(unsafe { OwnedHandle::from_raw_handle(before) });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn what_the_command_line_cannot_carry_is_refused() {
        let line = |argument: &str| command_line(Path::new(r"C:\a b\c.exe"), &[argument.into()]);
        let units = line(r"\\.\pipe\my bus").expect("an argument");
        assert_eq!(String::from_utf16(&units).expect("text"), "\"C:\\a b\\c.exe\" \"\\\\.\\pipe\\my bus\"\0");
        for bad in ["a\"b", "a\\", "a\0"] {
            assert!(line(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn variables_are_a_block_in_order_that_ends_with_two_zeros() {
        let block = environment(&[("b", "2".into()), ("A", "1".into())]).expect("a block");
        assert_eq!(String::from_utf16(&block).expect("text"), "A=1\0b=2\0\0");
        assert_eq!(environment(&[]).expect("a block"), [0, 0]);
    }

    /// Only as the process that the next test starts.
    #[test]
    fn started_process() {
        if let Some(greeting) = std::env::var_os("GREETING") {
            println!("{} {:?}", greeting.display(), std::env::var_os("PATH"));
            std::process::exit(7);
        }
    }

    #[test]
    fn a_started_process_has_these_variables_alone_and_reports_how_it_ended() {
        let this = std::env::current_exe().expect("a test is a program");
        let arguments = ["--exact", "windows::process::tests::started_process", "--nocapture"].map(OsString::from);
        let root = std::env::var_os("SystemRoot").expect("every Windows has one");
        let variables = [("SystemRoot", root), ("GREETING", "hello there".into())];
        let mut process = Detached::start(&this, &arguments, &variables).expect("it starts");
        let mut said = String::new();
        process.output().read_to_string(&mut said).expect("text");
        assert_eq!(process.wait().expect("it ends"), 7, "{said}");
        assert!(said.contains("hello there None"), "{said:?}");
    }
}
