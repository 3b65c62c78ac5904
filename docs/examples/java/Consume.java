import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Reads a topic of Wattring with a consumer group of its own, and prints what it read. 以自己的消费组读取主题并打印。
 *
 * <pre>
 * mvn dependency:copy-dependencies -DoutputDirectory=lib
 * javac -encoding UTF-8 -cp 'lib/*' Consume.java
 * java -cp 'lib/*:.' Consume localhost:9092 wattring.telemetry.readings.v1 my-app
 * </pre>
 *
 * A fourth argument ends it after so many messages.
 */
public final class Consume {
    private static final String READING = "wattring.telemetry.readings.v1";
    private static final String HEARTBEAT = "wattring.telemetry.heartbeat.v1";
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final PrintStream OUT = new PrintStream(System.out, false, StandardCharsets.UTF_8);

    public static void main(String[] arguments) throws IOException {
        long count = arguments.length > 3 ? Long.parseLong(arguments[3]) : Long.MAX_VALUE;
        Map<String, Object> settings = Map.of(
                ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, arguments[0],
                ConsumerConfig.GROUP_ID_CONFIG, arguments[2],
                ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false,
                ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        try (KafkaConsumer<String, byte[]> consumer =
                new KafkaConsumer<>(settings, new StringDeserializer(), new ByteArrayDeserializer())) {
            consumer.subscribe(List.of(arguments[1]));
            long done = 0;
            while (done < count) {
                ConsumerRecords<String, byte[]> records = consumer.poll(Duration.ofSeconds(1));
                for (ConsumerRecord<String, byte[]> record : records) {
                    Map<String, String> headers = new HashMap<>();
                    for (Header header : record.headers()) {
                        headers.put(header.key(), new String(header.value(), StandardCharsets.UTF_8));
                    }
                    handle(headers, record.value() == null ? null : JSON.readTree(record.value()));
                    done++;
                }
                if (!records.isEmpty()) {
                    consumer.commitSync(); // after the work: what was not committed comes again, so nothing is lost
                    OUT.flush();
                }
            }
        }
    }

    /** Do your work here. The same ce_id comes again after a crash: what it did must then be done once. */
    private static void handle(Map<String, String> headers, JsonNode value) {
        String kind = headers.get("ce_type");
        if (kind.equals(HEARTBEAT)) {
            return; // says that ingest is alive; you may need it to tell silent devices from a silent platform
        }
        if (kind.equals(READING) && value != null) {
            Map<String, JsonNode> points = new TreeMap<>();
            value.get("points").fields().forEachRemaining(point -> points.put(point.getKey(), point.getValue()));
            points.forEach((point, number) -> OUT.println(String.join(" ",
                    value.get("source_time").asText(),
                    value.get("site_id").asText(),
                    value.get("device_id").asText(),
                    point,
                    number.isNull() ? "-" : number.asText(),
                    value.path("quality").path(point).asText("good"))));
        } else { // a value of null removes its key from a compacted topic
            OUT.println(String.join(" ", headers.get("ce_time"), kind, headers.get("ce_id"), String.valueOf(value)));
        }
    }
}
