//! What the programs of the demo do: load many files of their own, say so, work a little.

/// Imports what this Python has of a list of modules; the first line of output comes after the last import.
pub(super) const PYTHON: &str = r#"
import importlib, sys
names = """argparse asyncio base64 calendar collections concurrent.futures configparser csv ctypes dataclasses
datetime decimal difflib email.message email.mime.multipart email.parser fractions functools gzip hashlib
html.parser http.client http.server imaplib inspect ipaddress json locale logging.config lzma mimetypes
multiprocessing.pool optparse pathlib pickle platform pprint queue random re secrets selectors shutil smtplib
socketserver sqlite3 ssl statistics string subprocess tarfile tempfile textwrap threading timeit tokenize
unittest.mock urllib.request uuid wsgiref.simple_server xml.dom.minidom xml.etree.ElementTree xmlrpc.client
zipfile zoneinfo""".split()
for name in names:
    try:
        importlib.import_module(name)
    except ImportError:
        names = [other for other in names if other != name]
print("python %d.%d is ready: %d modules of %d" % (*sys.version_info[:2], len(sys.modules), len(names)), flush=True)
import hashlib, json
text = json.dumps({str(n): n * n for n in range(2000)}, sort_keys=True)
print("worked:", hashlib.sha256(text.encode()).hexdigest())
"#;

/// The same for Perl.
pub(super) const PERL: &str = r#"
$| = 1;
my @names = qw(POSIX Storable Data::Dumper Digest::SHA Encode File::Find File::Copy File::Temp Getopt::Long
    HTTP::Tiny IO::Socket::INET IO::Compress::Gzip JSON::PP List::Util MIME::Base64 Math::BigFloat Module::CoreList
    Pod::Usage Socket Term::ANSIColor Test::More Text::Wrap Time::HiRes Time::Local Time::Piece Unicode::Normalize);
my $got = 0;
for my $name (@names) { $got++ if eval "require $name; 1" }
printf "perl %vd is ready: %d files of %d modules\n", $^V, scalar(keys %INC), $got;
my $sum = 0; $sum += $_ * $_ for 1 .. 2000;
print "worked: $sum\n";
"#;
