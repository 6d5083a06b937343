/* A push's gzip member (RFC 1952, RFC 1951) inflated, if it is as pushes are.
 *
 * ISA-L is made for megabytes: of the 1.8 us that it takes for a push of 250 bytes more than half
 * goes into tables that pay later than a push ends, and 30 KiB of them push the parser's data out of
 * the processor's first cache. Here tables have as many bits as the longest code of this very push
 * (8 to 10), are built with one store a code, and hold one symbol an entry. That takes 2/3 of the
 * time for a push alone, and a fifth off the decoding of one.
 *
 * What is as usual: a header of ten bytes, one block with dynamic codes of at most 11 bits. Of
 * anything else, and of anything wrong, this says NO and ISA-L decides, so nothing is refused here.
 * What is taken has complete codes, the length and the end that its trailer and size say, and the
 * caller compares the checksum.
 *
 * Reading: eight bytes at a time into `bits`, of which `count` are sure to be there. The trailer's
 * eight bytes follow the deflate data, so a load that begins in the data ends in the member. Bits
 * beyond the data are garbage or zero; whoever used some ends after the data's end, which is
 * checked once, at the end. Writing: copies go up to 15 bytes beyond what they should write, into
 * the room that the caller leaves. */

#ifndef FASTPOS_DEFLATE_H
#define FASTPOS_DEFLATE_H

#include <stdint.h>
#include <string.h>

#define DEFLATE_MAX_BITS 11             /* of a code that is as usual */
#define DEFLATE_ROOM_BEYOND 16          /* of the output, that may be written */
#define GZIP_HEADER 10
#define GZIP_TRAILER 8

#if defined(__GNUC__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define HAVE_SMALL_INFLATE 1
#else
#define HAVE_SMALL_INFLATE 0            /* ISA-L does it all */
#endif

/* An entry of a table. Bits 0 to 3: of the code; 8 to 11: extra bits that follow it; 16 to 31: the
 * literal, the base of the length or of the distance, or a code length's symbol. */
#define LITERAL 0x80u
#define BLOCK_END 0x40u
#define CODE_BITS(entry) ((entry) & 15)
#define EXTRA_BITS(entry) ((entry) >> 8 & 15)
#define VALUE(entry) ((entry) >> 16)

typedef struct {
    uint32_t literals[1 << DEFLATE_MAX_BITS];
    uint32_t distances[1 << DEFLATE_MAX_BITS];
} DeflateTables;

/* The codes of one alphabet while they are read: only symbols that have one. */
typedef struct {
    int used;
    uint16_t of_length[16];             /* how many codes there are */
    uint8_t lengths[288];
    uint32_t entries[288];              /* without the code's bits */
} Codes;

static inline void
add_code(Codes *codes, uint32_t entry, unsigned length)
{
    codes->entries[codes->used] = entry;
    codes->lengths[codes->used++] = (uint8_t)length;
    codes->of_length[length]++;
}

/* Fills `table`, indexed by as many bits as the longest code has; that number, or 0 if the codes
 * are no complete prefix code or longer than as usual. */
static inline int
build_table(uint32_t *table, const Codes *codes, int max_bits)
{
    uint16_t next[17] = {0};            /* position in `sorted` of each length */
    uint32_t sorted[288];
    int shortest = 0, longest = 0, left = 1;
    for (int length = 1; length < 16; length++) {
        next[length + 1] = next[length] + codes->of_length[length];
        left = 2 * left - codes->of_length[length];
        if (left < 0)
            return 0;                   /* over-subscribed */
        if (codes->of_length[length] != 0) {
            if (shortest == 0)
                shortest = length;
            longest = length;
            if (left == 0)
                break;
        }
    }
    if (left != 0 || longest > max_bits || next[longest + 1] != codes->used)
        return 0;
    for (int i = 0; i < codes->used; i++)
        sorted[next[codes->lengths[i]]++] = codes->entries[i] | codes->lengths[i];

    /* Codes in their order, bits reversed as they are read. The table is doubled when they get
     * longer, which repeats the shorter ones. */
    uint32_t code = 0, size = 1u << shortest;
    const uint32_t *symbol = sorted;
    for (int length = shortest; length <= longest; length++) {
        for (int left_of = codes->of_length[length]; left_of > 0; left_of--) {
            table[code] = *symbol++;
            uint32_t zeros = code ^ (size - 1);
            if (zeros != 0) {           /* else it was the last of all */
                uint32_t highest = 1u << (31 - __builtin_clz(zeros));
                code = (code & (highest - 1)) | highest;
            }
        }
        if (length < longest) {
            if (size < 8)
                for (uint32_t i = 0; i < size; i++)
                    table[size + i] = table[i];
            else
                for (uint32_t i = 0; i < size; i += 8)
                    memcpy(table + size + i, table + i, 8 * sizeof(*table));
            size *= 2;
        }
    }
    return longest;
}

#define BITS(n) (bits & ((1ull << (n)) - 1))
#define DROP(n) (bits >>= (n), count -= (n))
/* By the entry's low bits: a shift takes no notice of those above the sixth, the flags. */
#define DROP_CODE(entry) (bits >>= (entry) & 63, count -= CODE_BITS(entry))
#define REFILL() \
    do { \
        uint64_t word = 0; \
        if (at <= end) \
            memcpy(&word, member + at, 8); \
        bits |= word << count; \
        at += (63 - count) >> 3; \
        count |= 56; \
    } while (0)

/* Inflates `member` into exactly `length` bytes at `out`, and up to DEFLATE_ROOM_BEYOND more.
 * 1 if that is what it holds by all but its checksum, else 0: NO. */
static int
inflate_usual(DeflateTables *tables, const uint8_t *member, uint32_t size, uint8_t *out,
              uint32_t length)
{
    /* RFC 1951, sections 3.2.7 and 3.2.5. */
    static const uint8_t order[19] = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                      11, 4,  12, 3, 13, 2, 14, 1, 15};
    static const uint32_t length_entries[29] = {
#define L(base, extra) ((uint32_t)(base) << 16 | (extra) << 8)
        L(3, 0), L(4, 0), L(5, 0), L(6, 0), L(7, 0), L(8, 0), L(9, 0), L(10, 0), L(11, 1),
        L(13, 1), L(15, 1), L(17, 1), L(19, 2), L(23, 2), L(27, 2), L(31, 2), L(35, 3), L(43, 3),
        L(51, 3), L(59, 3), L(67, 4), L(83, 4), L(99, 4), L(115, 4), L(131, 5), L(163, 5),
        L(195, 5), L(227, 5), L(258, 0)};
    static const uint32_t distance_entries[30] = {
        L(1, 0), L(2, 0), L(3, 0), L(4, 0), L(5, 1), L(7, 1), L(9, 2), L(13, 2), L(17, 3),
        L(25, 3), L(33, 4), L(49, 4), L(65, 5), L(97, 5), L(129, 6), L(193, 6), L(257, 7),
        L(385, 7), L(513, 8), L(769, 8), L(1025, 9), L(1537, 9), L(2049, 10), L(3073, 10),
        L(4097, 11), L(6145, 11), L(8193, 12), L(12289, 12), L(16385, 13), L(24577, 13)};
#undef L
    if (size < GZIP_HEADER + GZIP_TRAILER || memcmp(member, "\x1f\x8b\x08\x00", 4) != 0)
        return 0;
    uint32_t at = GZIP_HEADER;
    const uint32_t end = size - GZIP_TRAILER;
    uint64_t bits = 0;
    uint32_t count = 0;

    /* The block's header: the last one, dynamic; how many code lengths follow. */
    REFILL();
    if (BITS(3) != 5)
        return 0;
    int n_literals = 257 + (int)(bits >> 3 & 31), n_distances = 1 + (int)(bits >> 8 & 31);
    int n_lengths = 4 + (int)(bits >> 13 & 15);
    DROP(17);
    if (n_literals > 286 || n_distances > 30)
        return 0;
    uint8_t precode_lengths[19] = {0};
    for (int i = 0; i < n_lengths; i++) {
        if (count < 3)
            REFILL();
        precode_lengths[order[i]] = (uint8_t)BITS(3);
        DROP(3);
    }
    Codes precode;
    precode.used = 0;
    memset(precode.of_length, 0, sizeof(precode.of_length));
    for (int symbol = 0; symbol < 19; symbol++)
        if (precode_lengths[symbol] != 0)
            add_code(&precode, (uint32_t)symbol << 16, precode_lengths[symbol]);
    uint32_t precode_table[1 << 7];
    int precode_bits = build_table(precode_table, &precode, 7);
    if (precode_bits == 0)
        return 0;

    /* The lengths of the two codes that the data is in, one list. */
    Codes literals, distances;
    literals.used = distances.used = 0;
    memset(literals.of_length, 0, sizeof(literals.of_length));
    memset(distances.of_length, 0, sizeof(distances.of_length));
    int i = 0, total = n_literals + n_distances;
    unsigned code_length = 0;
    while (i < total) {
        if (count < 7 + 7)
            REFILL();
        uint32_t entry = precode_table[BITS(precode_bits)];
        DROP_CODE(entry);
        int times = 1;
        switch (VALUE(entry)) {
        case 16:
            if (i == 0)
                return 0;
            times = 3 + (int)BITS(2);
            DROP(2);
            break;
        case 17:
            times = 3 + (int)BITS(3);
            DROP(3);
            code_length = 0;
            break;
        case 18:
            times = 11 + (int)BITS(7);
            DROP(7);
            code_length = 0;
            break;
        default:
            code_length = VALUE(entry);
        }
        if (times > total - i)
            return 0;
        if (code_length == 0)
            i += times;
        else
            for (; times > 0; times--, i++) {
                if (i >= n_literals)
                    add_code(&distances, distance_entries[i - n_literals], code_length);
                else if (i > 256)
                    add_code(&literals, length_entries[i - 257], code_length);
                else
                    add_code(&literals, i == 256 ? BLOCK_END : LITERAL | (uint32_t)i << 16,
                             code_length);
            }
    }
    int literal_bits = build_table(tables->literals, &literals, DEFLATE_MAX_BITS);
    int distance_bits = build_table(tables->distances, &distances, DEFLATE_MAX_BITS);
    if (literal_bits == 0 || distance_bits == 0)
        return 0;

    /* The data. A refill is good for four literals, or one and a match: 11 + 11 + 5 + 11 + 13. */
    uint8_t *to = out, *const out_end = out + length;
    for (;;) {
        if (to > out_end)
            return 0;
        REFILL();
        uint32_t entry = tables->literals[BITS(literal_bits)];
        if (entry & LITERAL) {
            int more = 4;
            do {
                DROP_CODE(entry);
                *to++ = (uint8_t)VALUE(entry);
                entry = tables->literals[BITS(literal_bits)];
            } while (--more > 0 && entry & LITERAL);
            if (entry & LITERAL)
                continue;
            if (to > out_end)
                return 0;
            REFILL();
        }
        DROP_CODE(entry);
        if (entry & BLOCK_END)
            break;
        uint32_t run = VALUE(entry) + (uint32_t)BITS(EXTRA_BITS(entry));
        DROP(EXTRA_BITS(entry));
        entry = tables->distances[BITS(distance_bits)];
        DROP_CODE(entry);
        uint32_t distance = VALUE(entry) + (uint32_t)BITS(EXTRA_BITS(entry));
        DROP(EXTRA_BITS(entry));
        if (run > (size_t)(out_end - to) || distance > (size_t)(to - out))
            return 0;
        const uint8_t *from = to - distance;
        uint8_t *const run_end = to + run;
        if (distance >= 8) {
            memcpy(to, from, 8);
            memcpy(to + 8, from + 8, 8);
            while ((to += 16) < run_end) {
                from += 16;
                memcpy(to, from, 8);
                memcpy(to + 8, from + 8, 8);
            }
        }
        else
            while (to < run_end)
                *to++ = *from++;
        to = run_end;
    }
    return to == out_end && at - (count >> 3) == end;
}

#undef BITS
#undef DROP
#undef DROP_CODE
#undef REFILL
#undef LITERAL
#undef BLOCK_END
#undef CODE_BITS
#undef EXTRA_BITS
#undef VALUE

#endif
