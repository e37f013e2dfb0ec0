/* What Python may see of engine_source.c; the compiler fills in every `...`. */

#define CHD_BLOCK ...
#define CHD_ENTROPY ...
#define CHD_NET ...
#define CHD_PACKET_MAX ...
#define CHD_NO_VECTOR ...
#define CHD_QUEUE_MAX ...
#define CHD_RANGES ...
#define CHD_VECTORS ...

struct chd_range {
        uint64_t gpa, size;
        uint8_t *host;
};

struct chd_ram {
        struct chd_range ranges[...];
};

struct chd_block {
        int fd, readonly;
        uint64_t sectors;
        char id[...];
        int wake, error;
        uint64_t n_errors;
        ...;
};

struct chd_net {
        int fd, has_header;
        uint8_t *packet;
        ...;
};

struct chd_line {
        int vm_fd;
        uint32_t gsi;
        ...;
};

struct chd_vector {
        int pending;
        ...;
};

struct chd_queue {
        uint16_t vector;
        ...;
};

struct chd_engine {
        int kind, vm_fd, kick, n_queues;
        uint64_t features;
        struct chd_ram ram;
        struct chd_block block;
        struct chd_net net;
        struct chd_line *line;
        uint32_t line_bit;
        uint16_t config_vector;
        struct chd_vector vectors[...];
        struct chd_queue queues[...];
        ...;
};

static void chd_line_init(struct chd_line *line);
static int chd_engine_start(struct chd_engine *engine, const char *name);
static void chd_engine_stop(struct chd_engine *engine);
static void chd_engine_hold(struct chd_engine *engine);
static void chd_engine_release(struct chd_engine *engine);
static void chd_engine_reset(struct chd_engine *engine);
static int chd_engine_start_queue(struct chd_engine *engine, int index, uint32_t size,
                                  uint64_t table, uint64_t avail, uint64_t used);
static void chd_engine_set_vector(struct chd_engine *engine, int index, uint64_t address,
                                  uint32_t data, int masked);
static void chd_engine_set_interrupts(struct chd_engine *engine, int msix_on, int msix_masked,
                                      int intx_off);
static int chd_engine_take_isr(struct chd_engine *engine);
static int chd_engine_is_broken(struct chd_engine *engine);
