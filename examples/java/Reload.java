import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardWatchEventKinds;
import java.nio.file.WatchEvent;
import java.nio.file.WatchKey;
import java.nio.file.WatchService;

/**
 * A web server that uses a user name and a password from a volume of Mayfly, and uses the new ones
 * as soon as they are there. Run it with: java Reload.java /mnt/secrets 8080
 */
public final class Reload {
    /** Both are from one payload of the volume: never the user name of one, the password of the next. */
    record Credentials(String username, String password) {}

    private static volatile Credentials current;

    /** The driver replaces the link ..data by one rename, and keeps the payload before it. */
    private static Credentials read(Path dir) throws IOException {
        Path payload = dir.resolve("..data").toRealPath();
        return new Credentials(
                Files.readString(payload.resolve("username")).strip(),
                Files.readString(payload.resolve("password")).strip());
    }

    private static void use(Path dir) throws IOException {
        current = read(dir);
        System.err.println("using the credentials of " + current.username());
    }

    /** Watches the directory: the files in it are links that do not change, the link ..data does. */
    private static void watch(Path dir, WatchService service) throws InterruptedException {
        while (true) {
            WatchKey key = service.take();
            boolean swapped = false;
            for (WatchEvent<?> event : key.pollEvents()) {
                swapped |= event.kind() == StandardWatchEventKinds.OVERFLOW
                        || event.context().toString().equals("..data");
            }
            if (swapped) {
                try {
                    use(dir);
                } catch (IOException e) {
                    System.err.println("reading the secrets, the earlier ones stay: " + e);
                }
            }
            if (!key.reset()) {
                System.err.println("the directory is gone, and is not watched any more");
                return;
            }
        }
    }

    public static void main(String[] args) throws Exception {
        Path dir = Path.of(args[0]);
        WatchService service = dir.getFileSystem().newWatchService();
        // Before the first read, so that no change is missed between the two.
        dir.register(service, StandardWatchEventKinds.ENTRY_CREATE, StandardWatchEventKinds.ENTRY_MODIFY);
        use(dir);
        Thread watcher = new Thread(() -> {
            try {
                watch(dir, service);
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
        });
        watcher.setDaemon(true);
        watcher.start();

        HttpServer server = HttpServer.create(new InetSocketAddress(Integer.parseInt(args[1])), 0);
        server.createContext("/", exchange -> {
            // An application would log in to its database here, with c.password().
            Credentials c = current;
            byte[] answer = (c.username() + ", with a password of " + c.password().length() + " letters\n")
                    .getBytes(StandardCharsets.UTF_8);
            exchange.sendResponseHeaders(200, answer.length);
            try (var body = exchange.getResponseBody()) {
                body.write(answer);
            }
        });
        server.start();
        System.err.println("serving http://127.0.0.1:" + server.getAddress().getPort());
    }
}
