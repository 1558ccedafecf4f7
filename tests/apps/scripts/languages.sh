# needs: ruby perl php java javac
# Language runtimes: threads, child processes, files, sockets, signals and garbage collection in each.
cat >a.rb <<'R'
require 'socket'; require 'tempfile'; require 'open3'
server = TCPServer.new('127.0.0.1', 0)
t = Thread.new { c = server.accept; c.puts(c.gets.upcase); c.close }
s = TCPSocket.new('127.0.0.1', server.addr[1]); s.puts 'ruby'; puts s.gets; t.join
puts 8.times.map { |n| Thread.new { (1..1000).sum * n } }.sum(&:value)
r, w = IO.pipe; pid = fork { r.close; w.write Marshal.dump([1, :a]); exit! 3 }; w.close; p Marshal.load(r.read); Process.wait pid; p $?.exitstatus
trap('USR1') { puts 'signalled' }; Process.kill('USR1', $$); sleep 0.05
out, status = Open3.capture2('tr a-z A-Z', stdin_data: 'abc'); p out, status.success?
100_000.times { 'x' * 10 }; GC.start; puts GC.count > 0
R
ruby a.rb
perl -MSocket -MIO::Socket::INET -MPOSIX=:sys_wait_h -e '
$SIG{ALRM} = sub { print "alarm\n" }; alarm 1; select undef, undef, undef, 3;
my $l = IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1"); my $port = $l->sockport;
if (!(my $pid = fork)) { my $s = IO::Socket::INET->new("127.0.0.1:$port"); print $s "from child\n"; exit 6 } else {
  my $c = $l->accept; print scalar <$c>; waitpid $pid, 0; print $? >> 8, "\n" }
print `echo backquotes`; open my $p, "|-", "cat" or die; print $p "to cat\n"; close $p; print "$0 $?\n"'
php -r 'echo array_sum(range(1, 100)), "\n"; $p = proc_open(["cat"], [["pipe","r"],["pipe","w"]], $pipes); fwrite($pipes[0], "proc"); fclose($pipes[0]);
echo stream_get_contents($pipes[1]), proc_close($p), "\n"; $s = stream_socket_server("tcp://127.0.0.1:0"); $c = stream_socket_client("tcp://" . stream_socket_get_name($s, false));
$d = stream_socket_accept($s); fwrite($c, "line\n"); echo fgets($d); file_put_contents("f", "data", LOCK_EX); echo filesize("f"), "\n"; usleep(1000);'
cat >Main.java <<'J'
import java.io.*; import java.net.*; import java.nio.file.*; import java.util.*; import java.util.concurrent.*; import java.util.stream.*;
public class Main {
    public static void main(String[] args) throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(8);
        List<Future<Long>> sums = new ArrayList<>();
        for (int n = 0; n < 32; n++) { final int k = n; sums.add(pool.submit(() -> LongStream.range(0, 100000).map(x -> x ^ k).sum())); }
        long total = 0; for (Future<Long> sum : sums) total += sum.get(); System.out.println(total); pool.shutdown();
        System.out.println(IntStream.range(0, 1000000).parallel().filter(x -> x % 3 == 0).count());
        try (ServerSocket server = new ServerSocket(0, 5, InetAddress.getLoopbackAddress())) {
            Thread echo = new Thread(() -> { try (Socket s = server.accept()) { s.getOutputStream().write(s.getInputStream().readNBytes(4)); } catch (IOException e) { System.out.println(e); } });
            echo.start();
            try (Socket s = new Socket(server.getInetAddress(), server.getLocalPort())) { s.getOutputStream().write("java".getBytes()); System.out.println(new String(s.getInputStream().readAllBytes())); }
            echo.join();
        }
        Process p = new ProcessBuilder("sh", "-c", "cat; exit 4").start();
        p.getOutputStream().write("child".getBytes()); p.getOutputStream().close();
        System.out.println(new String(p.getInputStream().readAllBytes()) + p.waitFor());
        Path file = Files.writeString(Path.of("j"), "text"); System.out.println(Files.size(file) + " " + Files.list(Path.of(".")).count());
        String nothing = args.length == 0 ? null : ""; try { nothing.length(); } catch (NullPointerException e) { System.out.println("null caught"); }
        int depth = 0; try { dive(0); } catch (StackOverflowError e) { System.out.println("overflow caught"); }
        byte[][] kept = new byte[16][]; for (int n = 0; n < 2000; n++) kept[n % 16] = new byte[1 << 16]; System.gc(); System.out.println(kept[3].length);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> System.out.println("hook"))); System.exit(5);
    }
    static int dive(int n) { return dive(n + 1) + 1; }
}
J
javac Main.java && java Main; echo "java $?"
timeout 60 java -cp . -XX:+UseSerialGC Main >/dev/null; echo "serial $?"
